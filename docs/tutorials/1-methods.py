# %% [markdown]
# # 1. Methods and their taxonomy
# One picture, one model, one class, and the families of methods: what each asks the network, what it costs, and one
# thing that each cannot tell. You need `pip install 'limelight[demo,plot]'`; all cells together take less than a
# minute of one core. Methods that sample have fewer rows here than by default.
# %% include=drawing
# %%
import limelight as ll

model = ll.load_model("efficientnet-lite0")
x = model.preprocess(ll.demo_image("chelsea"))
score, found = model(x).detach().softmax(1).max(1)
print(model.labels[int(found)], f"{float(score):.0%}")
assert model.labels[int(found)] == "tiger cat"

# %% [markdown]
# ## One of each family
# A method is a text or an object; a list of them shares one question. Gradients ask what a small change of a pixel
# does. Averages over noise ask it of the neighbourhood. Paths add up all changes from a baseline. Backward rules
# change the way back through the network. Class activation maps ask a layer inside. Occlusion and games cover parts
# and look what the score does.
# %%
methods = {
    "gradient": "gradient",
    "noise": "smooth-grad(samples=8)",
    "path": "integrated-gradients(16)",
    "rule": "lrp",
    "layer": "grad-cam",
    "covering": "occlusion(window=48, stride=32)",
    "game": "kernel-shap(samples=200)",
}
panel = ll.explain(model, x, list(methods.values()), target=281)
shown = [("tabby, 281", x[0])]
shown += [(f"{family}: {name}", panel[name].viewed()[0]) for family, name in zip(methods, panel)]
sheet(
    [shown[:4], shown[4:]],
    "Seven families on one question. Maps that look alike need not mean the same: some are magnitudes, some are signed, and "
    "their units differ.",
)
for family, name in zip(methods, panel):
    print(f"{family}: {name}, {panel[name].forward_rows} forward and {panel[name].backward_rows} backward rows")

# %% [markdown]
# What adds up? A path, DeepLIFT and games promise that their values sum to f(x) - f(baseline); `delta` is what they
# miss. A gradient promises nothing of the kind.
# %%
game = panel["kernel-shap"]
assert abs(float(game.delta)) < 1e-3 * abs(float(game.score - game.baseline_score))
assert panel["gradient"].method.no_sum and panel["lrp"].method.no_sum
print(
    f"kernel-shap: sum {float(game.values.sum()):.3f}, f(x) - f(baseline) {float(game.score - game.baseline_score):.3f}"
)
path = panel["integrated-gradients"]
print(f"16 nodes of a path miss {abs(float(path.delta / (path.score - path.baseline_score))):.0%} of the change")
# LRP's values do not sum to the score, and they may be more or less than it: biases take part of it.
print(f"lrp: sum {float(panel['lrp'].values.sum()):.2f}, score {float(panel['lrp'].score):.2f}")

# %% [markdown]
# ## Bright on black
# Gradients have signs, and texts differ in how to draw them. The magnitude shows how much a pixel matters. The signed
# map has red for "brighter here, more of the class". Summed over colours, a part cancels.
# %%
gradient = panel["gradient"]
largest = gradient.values[0].abs().amax(0)
sheet(
    [
        [
            ("picture", x[0]),
            ("largest magnitude", largest),
            ("signed sum", gradient.values[0].sum(0)),
            ("smoothed magnitude", gradient.viewed()[0]),
        ]
    ],
    "The same gradient, drawn in three ways. The signed sum looks like noise. The last is how limelight draws gradients by default: "
    "the magnitude, smoothed by 1.5% of the side.",
)
share = float(gradient.values.sum(1).abs().sum() / gradient.values.abs().sum())
print(f"of the gradient's magnitude, {share:.0%} is left after summing over the colours")
assert share < 0.9

# %% [markdown]
# ## Saturation
# The gradient asks what the next small step does. Where the function is flat it does nothing, whatever the feature did
# before. f(x) =
# 1 - max(0, 1 - x) rises from 0 to 1 and is flat from there on.
# %% tags=["arithmetic"]
import torch

import limelight as ll


def saturated(x):
    return 1 - torch.relu(1 - x)


points = torch.tensor([[0.5], [2.0]]).double()
gradients, path = ll.explain(ll.Differentiable(saturated), points, ["gradient", "integrated-gradients"]).values()
assert gradients.values[:, 0].tolist() == [1, 0]
assert torch.allclose(path.values, torch.tensor([[0.5], [1.0]]).double())

# %% [markdown]
# ## One ReLU, three ways back
# Five units. The gradient passes where the unit was on. DeconvNet passes what is positive on the way back, and does
# not ask whether the unit was on: its condition is about what travels back, not, as one text says, about the input.
# Guided backpropagation wants both.
# %% tags=["arithmetic"]
unit_inputs = [[-1.0, 2.0, -3.0, 4.0, 5.0]]
coming_back = [[1.0, 1.0, -1.0, -1.0, 2.0]]


def one_layer(x):
    """A ReLU whose outputs are weighed, so that the weights are what comes back to it."""
    return (torch.relu(x) * torch.tensor(coming_back).double()).sum(1, keepdim=True)


units = torch.tensor(unit_inputs).double()
ways = ll.explain(ll.Differentiable(one_layer), units, ["gradient", "deconv-net", "guided-backprop"])
passed = {name: found.values[0].tolist() for name, found in ways.items()}
assert passed["gradient"] == [0, 1, 0, -1, 2]
assert passed["deconv-net"] == [1, 1, 0, 0, 2]
assert passed["guided-backprop"] == [0, 1, 0, 0, 2]

# %%
rules = ll.explain(model, x, ["gradient", "deconv-net", "guided-backprop"], target=281)
other = ll.explain(model, x, ["gradient", "deconv-net", "guided-backprop"], target=967)
sheet(
    [
        [(name, rules[name].viewed()[0]) for name in rules],
        [(f"{name}, espresso", other[name].viewed()[0]) for name in other],
    ],
    "Above for the class tabby, below for espresso, which is not in the picture. DeconvNet draws the strides of the convolutions and guided backpropagation eyes and nose; both hardly change with the class.",
)
alike = {}
for name in rules:
    pair = torch.stack([rules[name].heatmap().flatten(), other[name].heatmap().flatten()]).abs()
    alike[name] = float(torch.corrcoef(pair)[0, 1])
print("correlation of the magnitudes for two classes:", {name: round(each, 2) for name, each in alike.items()})

# %% [markdown]
# ## Grad-CAM in six steps
# A layer with 1,280 channels on a grid of 7 x 7, done by hand and compared with the library.
# %%
# 1. Run the network, and keep the layer's channels.
kept = {}
layer = model.network.head
handle = layer.register_forward_hook(lambda module, given, out: kept.update(channels=out))
logit = model(x)[0, 281]  # the score of the class tabby
handle.remove()
channels = kept["channels"]
# 2. The gradient of the class with respect to the channels.
(slope,) = torch.autograd.grad(logit, channels)
# 3. Its mean over the positions is the weight of each channel.
weights = slope.mean((2, 3), keepdim=True)
# 4. Add up the weighted channels.
summed = (weights * channels).sum(1)
# 5. Keep what speaks for the class.
by_hand = torch.relu(summed).detach()
# 6. Enlarge the grid to the picture.
ours = ll.explain(model, x, "grad-cam", target=281, layer="network.head")
large = torch.nn.functional.interpolate(by_hand[:, None], size=x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
sheet(
    [
        [
            ("3. best channel", channels[0, int(weights.argmax())].detach()),
            ("4. sum", summed[0].detach()),
            ("5. what is for it", by_hand[0]),
            ("6. enlarged", large[0]),
        ]
    ],
    "Grad-CAM, from the channel of the largest weight to the map. Step 5 cuts what speaks against the class; here nothing does. The largest weight alone says little: its channel is on in a corner.",
)
assert float(summed.detach().min()) >= 0  # nothing to cut
assert torch.allclose(by_hand, ours.raw[:, 0].float(), rtol=1e-3, atol=1e-4 * float(by_hand.max()))

# %% [markdown]
# ## SmoothGrad from 1, 8 and 32 copies
# The mean gradient of noisy copies. Without pairs of opposite noise, since a single copy has no pair.
# %%
copies = [1, 8, 32]
smooth = ll.sweep(model, x, ll.SmoothGrad(antithetic=False), samples=copies, target=281)
sheet(
    [[("picture", x[0]), *((f"n = {n}", smooth[k].viewed()[0]) for k, n in enumerate(copies))]],
    "SmoothGrad by the number of copies. One copy is the gradient of a noisy picture. With 32 most spots are gone, and the left eye and some fur at the lower left stand out.",
)
neighbours = smooth.neighbours["samples"][0].tolist()
print("rank correlation with the map before:", [round(each, 2) for each in neighbours])
assert neighbours == sorted(neighbours)
