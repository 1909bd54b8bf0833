# %% [markdown]
# # 3. What can go wrong
# Four criticisms of pixel maps, each run: a picture that looks the same and has another map, two networks that are the
# same and have other maps, a sharp map whose sharpness is not the model's, and a mean that hides how different its
# parts are. You need `pip install 'limelight[demo,plot]'`; all cells together take about a minute of one core. The
# attack takes 4 steps here, 24 by default.
# %% include=drawing
# %%
import torch

import limelight as ll

model = ll.load_model("efficientnet-lite0")
x = model.preprocess(ll.demo_image("coffee"))
print(model.labels[int(model(x).argmax())])

# %% [markdown]
# ## An attacked picture
# An attacker moves each value by at most 1/255, one step of a stored colour, and keeps the class. The figure of
# `fragility` is the share of the map's 1,000 largest pixels that survive. Random changes of the same size are the
# control, and a low control says that the map needs no attacker to change.
# %%
finding = ll.check(model, x, "gradient", ll.Fragility(eps=1 / 255, iterations=4, looks=2), target=967)[0]
row = []
for title, each in zip(("picture", "attacked"), finding.exhibits_of(0)):
    row += [(title, each.pictures[0].float().expand(3, -1, -1) / 255), (f"gradient, {title}", each.maps[0])]
sheet(
    [row],
    "The picture with its gradient, and an attacked copy with its own. The pictures look alike, and the brightest places of the maps differ.",
)
kept, by_chance = float(finding.value[0]), float(finding.detail["random signs"][0])
print(f"of the largest pixels {kept:.0%} survive the attack and {by_chance:.0%} random changes of the same size")
assert kept < 0.5 * by_chance < 0.5

# %% [markdown]
# A low figure need not be the method's fault. A gradient can change this much because the model itself bends between
# the two pictures. Nor is it all the attacker's doing: random changes already take most of the largest pixels. What
# the attack shows is that the map is no property of what we see.
#
# ## Two networks under a shift
# Add .5 to every pixel, and let the first layer's bias take it back: the second network says of the shifted picture
# what the first says of the picture. One text lists the gradient among the methods that change. It does not change:
# both networks have the same gradient. What multiplies with the input changes, and so does what compares with a fixed
# baseline.
# %% tags=["arithmetic"]
import torch
from torch import nn

import limelight as ll

torch.manual_seed(0)
plain = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).double().eval()
moved = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).double().eval()
moved.load_state_dict(plain.state_dict())
with torch.no_grad():
    moved[0].bias -= 0.5 * plain[0].weight.sum(1)
here = torch.rand(3, 4).double()
assert torch.allclose(plain(here), moved(here + 0.5))


def both(method, **options):
    """The maps of the same class by the two networks."""
    there = [(plain, here), (moved, here + 0.5)]
    return [ll.explain(network, given, method, target=1, **options) for network, given in there]


for method in ("gradient", "guided-backprop"):
    one, other = both(method)
    assert torch.allclose(one.values, other.values)
one, other = both("smooth-grad(samples=256)")
error = (one.stderr**2 + other.stderr**2).sqrt()
assert ((one.values - other.values).abs() < 5 * error + 1e-12).all()
for method in ("input-x-gradient", "integrated-gradients", "deep-lift"):
    one, other = both(method)
    assert not torch.allclose(one.values, other.values, rtol=0.1)
# A baseline that moves along: the smallest value of each input.
one, other = both("integrated-gradients", baseline=ll.Minimum())
assert torch.allclose(one.values, other.values)

# %% [markdown]
# The same with the photograph. In single precision rounding moves the gradient too, by about a hundredth.
# %%
shown = []
for label, method, baseline in (
    ("gradient", "gradient", 0.0),
    ("Gradient x Input", "input-x-gradient", 0.0),
    ("IG from black", "integrated-gradients(12)", 0.0),
    ("IG from the minimum", "integrated-gradients(12)", ll.Minimum()),
):
    found = ll.check(model, x, method, "input-shift", target=967, baseline=baseline)[0]
    maps = [each.maps[0] for each in found.exhibits_of(0)]
    print(f"{label}: changes by {float(found.value[0]):.1%} of its maximum, {found.verdict}")
    assert found.passed == (label in ("gradient", "IG from the minimum"))
    shown.append([(label, maps[0]), ("second network", maps[1])])
sheet(
    [shown[0] + shown[1], shown[2] + shown[3]],
    "Maps of two networks that say the same of a picture and of its shifted copy. Gradient x Input and Integrated Gradients from "
    "black differ, because 0 is another picture for the second network.",
)

# %% [markdown]
# ## Guided Grad-CAM is a lens in front of a map
# It is the product of Grad-CAM, which has 7 x 7 values, and guided backpropagation, which is sharp and hardly depends
# on the class. The fine detail comes from the second. So the product keeps much of itself when the last layer, which
# knows the classes, is replaced by random numbers.
# %%
lens, coarse, product = ll.explain(model, x, ["guided-backprop", "grad-cam", "guided-grad-cam"], target=967).values()
by_hand = lens.values * coarse.values
sheet(
    [
        [
            ("guided backpropagation", lens.viewed()[0]),
            ("Grad-CAM", coarse.viewed()[0]),
            ("their product", product.viewed()[0]),
        ]
    ],
    "A lens, a map, and their product. The rim of the cup in the product is that of the lens.",
)
assert torch.allclose(by_hand, product.values, rtol=1e-3, atol=1e-5 * float(product.values.abs().max()))

# %%
tests = {}
for method in ("guided-backprop", "guided-grad-cam", "grad-cam"):
    found = ll.check(model, x, method, "randomisation(stages=1)", target=967)[0]
    tests[method] = float(found.value[0])
    print(f"{method}: rank correlation with the last layer at random {tests[method]:.2f}, {found.verdict}")
assert tests["guided-backprop"] > 0.9 > tests["guided-grad-cam"] > 0.5 > tests["grad-cam"]

# %% [markdown]
# ## Noisy copies and their mean
# SmoothGrad shows a mean of maps. No single noisy copy has that map, and the copies differ among themselves.
# %%
draws = torch.Generator().manual_seed(0)
copies = torch.cat([x + 0.15 * torch.randn(x.shape, generator=draws) for _ in range(16)])
maps = ll.explain(model, copies, "gradient", target=967)
mean = maps.values.mean(0)
drawn = maps.viewed()
several = torch.stack([each.flatten() for each in drawn[:8]])
alike = torch.corrcoef(several)
between = float(alike[~torch.eye(8, dtype=torch.bool)].mean())
sheet(
    [
        [(f"copy {k + 1}", copies[k]) for k in range(3)] + [("picture", x[0])],
        [(f"gradient {k + 1}", drawn[k]) for k in range(3)] + [("mean of 16 magnitudes", drawn.mean(0))],
    ],
    "Three noisy copies with their gradients, and the mean over 16 of them. Each copy has bright spots that the mean does not have.",
)
says = [model.labels[c] for c in model(copies).argmax(1).tolist()]
print(f"mean correlation between two copies' maps: {between:.2f}; the model says of the copies: {sorted(set(says))}")
assert between < 0.9
