# %% [markdown]
# # 4. From occlusion to Grad-CAM
# Cover a part of the picture and look what the model says: the oldest question, and still the one that is easiest to
# understand. This page goes from there to masks that are optimised, to the gradient, and to a test of how much of the
# network a map depends on. You need `pip install 'limelight[demo,plot]'`; all cells together take less than a minute
# of one core, with fewer rows than by default where a method samples.
# %% include=drawing
# %%
import torch

import limelight as ll

model = ll.load_model("efficientnet-lite0")
x = model.preprocess(ll.demo_image("coffee"))
asked = "probability(967)"
whole = float(model(x).detach().softmax(1)[0, 967])
print(f"{model.labels[967]}: {whole:.0%}")
assert whole > 0.9

# %% [markdown]
# ## What is left when a window is covered
# A square, a blurred square, a circle. The number is the probability of espresso with that window covered.
# %%
windows = {
    "grey square": ll.explain(model, x, "occlusion(window=64, stride=40)", target=asked, baseline=0.5),
    "blur": ll.explain(model, x, "occlusion(window=64, stride=40, fill=blur(15))", target=asked),
    "circle": ll.explain(model, x, "occlusion(window=circle(64), stride=40)", target=asked, baseline=0.5),
}
scores = {name: ll.window_scores(found).scores[0] for name, found in windows.items()}
figure = Figure((9, 3), layout="constrained")
for place, (name, grid) in zip(figure.subplots(1, 3), scores.items()):
    place.imshow(grid, cmap="gray", vmin=0, vmax=1)
    place.set_title(f"{name}: least {float(grid.amin()):.0%}", fontsize=9, loc="left")
    place.axis("off")
    for row, line in enumerate(grid.tolist()):
        for column, share in enumerate(line):
            place.text(column, row, f"{share:.0%}", ha="center", va="center", fontsize=7, color="#b2182b")
plot(
    figure,
    "The probability of espresso with each window covered; dark is where it falls. No window takes more than a third. Blur takes most, and the worst place of the circle is further right than that of the squares.",
)

# %%
for name, found in windows.items():
    grid = scores[name]
    # The score with the window covered is f(x) minus what was lost.
    assert torch.allclose(grid.double(), whole - found.raw[0].double().reshape(grid.shape), atol=1e-5)
assert 0.6 < float(scores["blur"].amin()) < float(scores["grey square"].amin())
assert all(float(grid.amin()) < whole for grid in scores.values())

# %%
sheet(
    [[("espresso", x[0]), *((name, found.viewed()[0]) for name, found in windows.items())]],
    "The maps: each pixel has the mean loss over the windows that cover it. All three have the cup, and their borders are the windows' and not the model's.",
)

# %% [markdown]
# ## Parts, random masks, and the best mask
# Feature ablation removes one part at a time, here the squares of a grid. RISE covers half of the picture at random,
# many times, and asks which pixels were there when the score was high: 256 masks here, 4,000 by default. Extremal
# perturbation searches the mask of a given area that keeps the score while the rest is blurred, in 400 steps here,
# 800 by default.
# %%
masks = {
    "squares": "feature-ablation(players=grid(8))",
    "RISE": "rise(256)",
    "extremal": "extremal-perturbation(areas=[0.3], steps=400)",
}
panel = ll.explain(model, x, list(masks.values()), target=967, baseline=0.5)
sheet(
    [[("espresso", x[0]), *((label, panel[k].viewed()[0]) for k, label in enumerate(masks))]],
    "Squares of a grid, RISE and a mask of 30% of the picture. All three have the cup; the mask has the spoon too.",
)
for found in panel.values():
    print(found.name, found.forward_rows, "forward rows;", *found.cautions[:1])

# %% [markdown]
# Is that the best mask of its size? A search ends when its steps are over, or where no small step helps. So compare it
# with what one would try by hand, a disc of the same area on the coffee, and with the same disc at the corner that has the least of the cup.
# %%
from limelight.question.baselines import gaussian_blur

rows, columns = torch.meshgrid(torch.arange(224.0), torch.arange(224.0), indexing="ij")
found = panel[2].heatmap()[0].float()


def disc_at(row, column):
    distance = (rows - row) ** 2 + (columns - column) ** 2
    return (distance <= distance.flatten().quantile(float(found.mean()))).float()


disc, corner = disc_at(85, 110), disc_at(224, 224)
blurred = gaussian_blur(x, 20.0)
kept = {}
for label, mask in (("mask that was found", found), ("disc", disc), ("disc in a corner", corner)):
    kept[label] = float(model(mask * x + (1 - mask) * blurred).detach().softmax(1)[0, 967])
    print(f"{label}: {float(mask.mean()):.0%} of the picture, espresso {kept[label]:.0%}")
sheet(
    [[("mask that was found", found), ("disc", disc), ("what the mask keeps", (found * x + (1 - found) * blurred)[0])]],
    "The mask that was found, a disc of the same area, and what the model gets with the mask. It says espresso of both, and nothing of the kind of the corner. A search is worth what it beats: always compare.",
)
assert abs(float(found.mean()) - 0.3) < 0.02
assert min(kept["mask that was found"], kept["disc"]) > 0.5 > 10 * kept["disc in a corner"]

# %% [markdown]
# ## Integrated Gradients beside the gradient
# Asking for all changes on the way from grey, and not for the next small one. The cost is one row for each node.
# %%
names = ("chelsea", "coffee", "rocket", "camera")
four = torch.cat([model.preprocess(ll.demo_image(name)) for name in names])
both = ll.explain(model, four, ["gradient", "integrated-gradients(12)"], baseline=0.5)
sheet(
    [
        [(name, four[i]) for i, name in enumerate(names)],
        [("gradient", both[0].viewed()[i]) for i in range(4)],
        [("integrated gradients", both[1].viewed()[i]) for i in range(4)],
    ],
    "Four pictures, their gradients, and Integrated Gradients from grey. Those keep to the cat's eyes and nose and to the rocket. They leave out the grass behind the camera, which is nearly the grey that they start from, whatever it means to the model.",
)

# %% [markdown]
# ## The cascade: which layers does a map depend on?
# Replace the network's layers by random numbers from the last one on, and look at the map after each. The class is
# gone after the first step. A map that stays the same does not show why the model said the class.
# %%
methods = ["gradient", "guided-backprop", "grad-cam"]
cat = four[:1]
shown, after = [], {}
for method in methods:
    finding = ll.check(model, cat, method, "randomisation(stages=3)", target=281)[0]
    maps = finding.exhibits_of(0)
    after[method] = float(finding.value[0])
    labels = (method, "classifier random", "upper half random", "all random")
    shown.append([(label, each.maps[0]) for label, each in zip(labels, maps)])
sheet(
    shown,
    "Maps of the whole model (left) and with more and more of its layers random. Guided backpropagation does not change with the classifier, and still draws the left eye when the upper half is random. The others follow the classifier.",
)
print("likeness after the last layer was replaced:", {name: round(each, 2) for name, each in after.items()})
assert after["guided-backprop"] > 0.9 > max(after["gradient"], after["grad-cam"])
