# %% [markdown]
# # 5. DeepLIFT, Integrated Gradients, axioms, SmoothGrad
# Numbers that can be worked by hand come first, then the same methods on photographs. Every number in this text is
# asserted in the cell below it. You need `pip install 'limelight[demo,plot]'`; all cells together take less than a
# minute of one core.
# %% tags=["arithmetic"]
import torch
from torch import nn

import limelight as ll


def values(function, x, method, **options):
    """Return the map of a function of a few numbers, in double precision."""
    model = function if isinstance(function, nn.Module) else ll.Differentiable(function)
    return ll.explain(model, torch.tensor([x], dtype=torch.float64), method, **options).values[0]


def same(found, expected, tolerance=1e-9):
    return torch.allclose(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=tolerance)


# %% include=drawing
# %% [markdown]
# ## What a gradient cannot see
# The baseline is 0 in all of these. DeepLIFT compares the output with that at the baseline, where a gradient asks only
# for the next small step.
#
# **A step up.** max(0, x - 10) at 10 + e: the gradient is 1 for any e > 0, and 0 just below 10. DeepLIFT gives e,
# without a jump.
# %% tags=["arithmetic"]
def late(x):
    return torch.relu(x - 10)


for e in (0.5, 0.001):
    assert same(values(late, [10 + e], "gradient"), [1])
    assert same(values(late, [10 + e], "deep-lift"), [e])


# %% [markdown]
# **Saturation.** 1 - max(0, 1 - x) at x = 2 does not rise any more. The gradient is 0, and so are Gradient x Input,
# DeconvNet and guided backpropagation. DeepLIFT and Integrated Gradients give 1, the whole rise from f(0) = 0 to f(2)
# = 1. (The slides write f(1) there and mean f(2).)
# %% tags=["arithmetic"]
def saturated(x):
    return 1 - torch.relu(1 - x)


for method in ("gradient", "input-x-gradient", "deconv-net", "guided-backprop"):
    assert same(values(saturated, [2], method), [0])
for method in ("deep-lift", "integrated-gradients"):
    assert same(values(saturated, [2], method), [1])

# %% [markdown]
# LRP and Deep Taylor are often named with those that solve this. They do not: with two linear layers both give 0,
# since the bias of the last layer takes all of the relevance. Written as the formula above, LRP gives 1, because a
# constant in a subtraction is no bias of a layer. The function is the same; LRP depends on how it is written.
# %% tags=["arithmetic"]
layers = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).double().eval()
for each in layers.parameters():
    nn.init.constant_(each, -1 if each.ndim == 2 else 1)

assert float(layers(torch.tensor([[2.0]]).double()).detach()) == 1
assert same(values(layers, [2], "lrp('epsilon')"), [0]) and same(values(layers, [2], "deep-taylor"), [0])
assert same(values(saturated, [2], "lrp('epsilon')"), [1])


# %% [markdown]
# **Thresholds of a sum.** sigmoid(x1 + x2): at (50, 0) DeepLIFT gives (.5, 0), at (100, 100) it gives (.25, .25). The
# gradient is 0 at both.
# %% tags=["arithmetic"]
def squashed(x):
    return torch.sigmoid(x.sum(1, keepdim=True))


assert same(values(squashed, [50, 0], "deep-lift"), [0.5, 0])
assert same(values(squashed, [100, 100], "deep-lift"), [0.25, 0.25])
assert same(values(squashed, [50, 0], "gradient"), [0, 0])


# %% [markdown]
# ## Rescale and RevealCancel: the minimum of two inputs
# min(x1, x2) = x1 - max(0, x1 - x2). Where x1 > x2 the rule Rescale gives everything to x2, as the gradient does: (0,
# x2). One text works this out and ends in -x1; with its own steps it is +x2, or the values would not sum to f(x).
# RevealCancel keeps the positive and negative changes of a unit's input apart. It sees that both were needed, and
# gives each half of the minimum.
# %% tags=["arithmetic"]
def minimum(x):
    return x[:, :1] - torch.relu(x[:, :1] - x[:, 1:])


assert same(values(minimum, [5, 2], "deep-lift"), [0, 2]) and same(values(minimum, [2, 5], "deep-lift"), [2, 0])
for x in ([5, 2], [2, 5], [3, 3]):
    half = min(x) / 2
    assert same(values(minimum, x, "deep-lift(reveal-cancel)"), [half, half])


# %% [markdown]
# The maximum of (2, 3): RevealCancel gives (1, 2), which is what Shapley values of a game of two players give. Ties
# share: a pooling window of four equal reference values falls by .6 to its largest pixel, and each pixel carries a
# quarter of the fall.
# %% tags=["arithmetic"]
def maximum(x):
    return torch.maximum(x[:, :1], x[:, 1:])


assert same(values(maximum, [2, 3], "deep-lift(reveal-cancel)"), [1, 2])
assert same(values(maximum, [2, 3], "exact-shapley"), [1, 2], 1e-6)
pool = nn.Sequential(nn.MaxPool2d(2), nn.Flatten()).eval()
assert same(values(pool, [[[0.1, 0.2], [0.3, 0.4]]], "deep-lift", baseline=1.0).flatten(), [-0.15] * 4)

# %% [markdown]
# ## DeepLIFT step by step
# A network of two inputs, two hidden units and one output. `AtLayer` gives the contributions of the hidden units; the
# parts of each sign are there too. Contributions of any layer sum to the same change of the output.
# %% tags=["arithmetic"]
small = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).double().eval()
with torch.no_grad():
    small[0].weight.copy_(torch.tensor([[1.0, -1.0], [1.0, 2.0]]))
    small[0].bias.copy_(torch.tensor([0.0, -1.0]))
    small[2].weight.copy_(torch.tensor([[1.0, 2.0]]))
    small[2].bias.zero_()

x = torch.tensor([[3.0, 1.0]]).double()
# Hidden units: relu(3 - 1) = 2 and relu(3 + 2 - 1) = 4, and at the reference 0 and relu(-1) = 0. Output: 2 + 2 * 4 = 10.
hidden = ll.explain(small, x, ll.AtLayer(ll.DeepLift(), "1"))
assert same(hidden.raw[0], [2, 8]) and float(hidden.score) == 10
# The second unit rises by 4 where its input rises by 5, so its multiplier is 4/5: x1 gets 3 * (1 + 2 * 4/5), x2 1 * (-1 + 2 * 2 * 4/5).
assert same(values(small, [3, 1], "deep-lift"), [3 * 2.6, 2.2])
assert same(values(small, [3, 1], "deep-lift(multiply=false)"), [2.6, 2.2])
parts = [values(small, [3, 1], ll.DeepLift(part=each)) for each in ("positive", "negative")]
assert torch.allclose(sum(parts), values(small, [3, 1], "deep-lift"))

# %% [markdown]
# **A softmax.** Adding the same to all scores of a row changes no probability, so contributions to one logit are only
# known up to that. Subtracting their mean over the classes settles it; the target `centred-logit` does this.
# %% tags=["arithmetic"]
torch.manual_seed(0)
scores = nn.Linear(3, 4).double().eval()
each = torch.stack([values(scores, [0.2, 0.5, 0.9], "deep-lift", target=c) for c in range(4)])
centred = torch.stack([values(scores, [0.2, 0.5, 0.9], "deep-lift", target=ll.CentredLogit(c)) for c in range(4)])
assert torch.allclose(centred, each - each.mean(0)) and torch.allclose(centred.sum(0), torch.zeros(3).double())


# %% [markdown]
# ## Two networks, one function
# relu(relu(x1) - 1 - relu(x2)) and relu(relu(x1 - 1) - relu(x2)) are equal everywhere. At (3, 1) Integrated Gradients
# give (1.5, -.5) for both. DeepLIFT gives (1.5, -.5) for one and (2, -1) for the other. It is not implementation
# invariant.
# %% tags=["arithmetic"]
def first(x):
    return torch.relu(torch.relu(x[:, :1]) - 1 - torch.relu(x[:, 1:]))


def second(x):
    return torch.relu(torch.relu(x[:, :1] - 1) - torch.relu(x[:, 1:]))


many = 6 * torch.rand(1000, 2).double() - 3
assert torch.allclose(first(many), second(many))
for function in (first, second):
    assert same(values(function, [3, 1], "integrated-gradients(midpoint(100))"), [1.5, -0.5])
assert same(values(first, [3, 1], "deep-lift"), [1.5, -0.5]) and same(values(second, [3, 1], "deep-lift"), [2, -1])


# %% [markdown]
# The texts count DeconvNet and guided backpropagation among the methods that pass, as gradients do. They fail: max(0,
# x) equals x + max(0, -x), and x equals max(0, x) - max(0, -x). DeconvNet lets a ReLU pass what is positive *on the
# way back*, whatever its input was; guided backpropagation asks for both.
# %% tags=["arithmetic"]
def relu_again(x):
    return x + torch.relu(-x)


def identity(x):
    return torch.relu(x) - torch.relu(-x)


assert same(values(torch.relu, [1], "deconv-net"), [1]) and same(values(relu_again, [1], "deconv-net"), [0])
assert same(values(lambda x: 1 * x, [-1], "guided-backprop"), [1])
assert same(values(identity, [-1], "guided-backprop"), [0])
for function, x in ((torch.relu, 1), (relu_again, 1), (identity, -1)):
    assert same(values(function, [x], "gradient"), [1])

# %% [markdown]
# ## Methods and axioms
# The same questions, asked of a network with random weights. Each figure is a deviation from what the axiom says;
# "FAIL" means it is above the limit. `implementation-invariance` writes the network in another way and compares the
# maps. Integrated Gradients miss linearity by what their quadrature misses: the default chooses the number of nodes
# for each score by itself.
# %%
torch.manual_seed(0)
network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).double().eval()
table = ll.evaluate(
    network,
    torch.randn(4, 6).double(),
    ["gradient", "input-x-gradient", "integrated-gradients", "deep-lift", "deep-taylor"],
    ["completeness", "sensitivity", "linearity", "implementation-invariance", "logit-shift"],
    target=1,
)
verdicts = {method: {check: cell.finding.passed for check, cell in row.items()} for method, row in table.items()}
display(Markdown(table.to_markdown()))

# %%
for name in ("integrated-gradients", "deep-lift"):
    assert verdicts[name]["completeness"]
for name in ("gradient", "integrated-gradients"):
    assert verdicts[name]["implementation-invariance"]
assert not verdicts["deep-lift"]["implementation-invariance"]

# %% [markdown]
# ## Six photographs
# The model's first class, its probability, and the maps of the gradient and of Integrated Gradients for it. All
# pictures are of the package scikit-image, the model is EfficientNet-lite0 on ImageNet.
# %%
model = ll.load_model("efficientnet-lite0")
names = ("chelsea", "coffee", "rocket", "motorcycle_left", "camera", "astronaut")
x = torch.cat([model.preprocess(ll.demo_image(name)) for name in names])
panel = ll.explain(model, x, ["gradient", "integrated-gradients(16)"])
likely, classes = model(x).detach().softmax(1).max(1)
for name, share, found in zip(names, likely.tolist(), classes.tolist()):
    print(f"{name}: {model.labels[found]} {share:.0%}")


rows = []
for i, (share, found) in enumerate(zip(likely.tolist(), classes.tolist())):
    rows.append((f"{model.labels[found]} {share:.0%}", x[i]))
    rows += [(method, panel[method].viewed()[i]) for method in panel]
sheet(
    [rows[k : k + 6] for k in range(0, 18, 6)],
    "Six photographs, each with the magnitude of its gradient and of Integrated Gradients from black. See the dark coat and the "
    "black visor: Integrated Gradients are 0 wherever the picture is black, since it does not differ from the baseline there.",
)

# %%
assert [model.labels[c] for c in classes[:2]] == ["tiger cat", "espresso"]
# Gradient x Input and Integrated Gradients from black are 0 where the picture is; the gradient is not.
black = (x == 0).expand_as(x)
assert black.any() and float(panel[1].values[black].abs().max()) == 0 and float(panel[0].values[black].abs().max()) > 0

# %% [markdown]
# ## The derivative of one pixel along the path
# Integrated Gradients average the gradient on the way from black to the picture. This is what they average: the
# derivative of one pixel's red, green and blue, as a share of the largest, at 65 points.
# %%
along = ll.along_path(model, x[:1], (100, 120), points=65)
plot(
    along.figure(),
    "Left: the derivative changes its sign many times between black (0) and the picture (1). "
    "Right: how alike the whole gradient is at two points of the path, by their distance; 1 is equal, 0 is unrelated.",
)
flips = int((along.derivatives[0, :-1, 0].sign() != along.derivatives[0, 1:, 0].sign()).sum())
print(f"the derivative of red changes its sign {flips} times")
assert flips >= 3

# %% [markdown]
# ## Noise and samples
# SmoothGrad averages gradients of noisy copies. Rows are pictures, columns are the noise as a share of the range of
# pixels. 8 copies each here, where the papers take 50.
# %%
levels = [0.0, 0.05, 0.15, 0.5]
noise = ll.sweep(model, x[:3], ll.SmoothGrad(samples=8), noise=levels)
sheet(
    [
        [(names[i], x[i]), *((f"noise {level:.0%}", noise[k].viewed()[i]) for k, level in enumerate(levels))]
        for i in range(3)
    ],
    "SmoothGrad of three pictures by noise. No level is best for all: the rocket's map gathers on the rocket from 5% on, the cat's on the eyes at 50%, and the cup's rim is sharpest without any.",
)

# %%
steps = [2, 8, 32, 100]
averaged = ll.sweep(model, x[:1], ll.SmoothGrad(noise=0.15), samples=steps)
sheet(
    [[("chelsea", x[0]), *((f"{n} copies", averaged[k].viewed()[0]) for k, n in enumerate(steps))]],
    "The same map from 2, 8, 32 and 100 copies. The first two differ much, the last two little.",
)
alike = averaged.neighbours["samples"][0].tolist()
print("rank correlation with the map before:", [round(each, 2) for each in alike])
assert alike == sorted(alike)


# %% [markdown]
# ## Shattered gradients
# Why does averaging help? Take networks of one number with random weights, and follow their derivative from -2 to 2.
# With one hidden layer it stays alike over long stretches. With 50 layers it is close to noise. Residual connections
# bring much of it back. This is the study of Balduzzi and others (2017), in small: three networks of each kind.
# %%
class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x):
        return x + 0.1 * self.inner(torch.relu(x))


def of_one_number(depth, residual, seed, width=100):
    """A network with random weights as He and others draw them; biases spread its first kinks over -2 to 2."""
    torch.manual_seed(seed)
    layers = [nn.Linear(1, width), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [Residual(width)] if residual else [nn.Linear(width, width), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Linear(width, 1))
    for each in network.modules():
        if isinstance(each, nn.Linear):
            nn.init.kaiming_normal_(each.weight, nonlinearity="relu")
            nn.init.normal_(each.bias, std=2 if each.in_features == 1 else 0)
    return network.double().eval()


figure = Figure((9, 3), layout="constrained")
left, right = figure.subplots(1, 2)
correlation = {}
for label, depth, residual in (("1 layer", 1, False), ("50 layers", 50, False), ("50 layers, residual", 50, True)):
    found = [
        ll.along_path(
            of_one_number(depth, residual, seed), torch.full((1, 1), 2.0).double(), (0,), points=257, baseline=-2.0
        )
        for seed in range(3)
    ]
    mean = torch.cat([each.autocorrelation for each in found]).mean(0)
    left.plot(4 * found[0].times - 2, found[0].share[0, :, 0], label=label, linewidth=1)
    right.plot(mean[:40], label=label, linewidth=1)
    correlation[label] = round(float(mean[4]), 2)
left.set(xlabel="x", ylabel="derivative, share of the largest")
right.set(xlabel="distance, in steps of 1/64", ylabel="autocorrelation")
right.legend(frameon=False)
plot(
    figure,
    "Left: the derivative of one network of each kind. Right: how alike it is at two points by their distance, mean of three "
    "networks. The curve of 50 plain layers falls at once: their gradient is shattered.",
)
print("autocorrelation at 4 steps:", correlation)
assert correlation["50 layers"] < correlation["50 layers, residual"] < correlation["1 layer"]


# %% [markdown]
# ## Training with noise, explaining with noise
# The paper on SmoothGrad says that both make maps clearer, and that they add up. Here is a data set of 16 x 16
# pictures with one bright shape on a noisy ground: a horizontal bar, a vertical bar or a square. The same small
# network is trained twice, once with noise on its inputs. The figure is the share of the map's magnitude that is on
# the shape; a map that knows nothing has 6%. Training with noise doubles it. Noise in explaining helps the network
# that was trained without, and not the other: here the two do not add up.
# %%
def shapes(n, seed):
    """Pictures (n, 1, 16, 16), classes (n,) and where the shape is (n, 1, 16, 16)."""
    draws = torch.Generator().manual_seed(seed)
    x = 0.3 * torch.rand(n, 1, 16, 16, generator=draws)
    kinds = torch.randint(3, (n,), generator=draws)
    where = torch.zeros(n, 1, 16, 16, dtype=torch.bool)
    for i, kind in enumerate(kinds.tolist()):
        high, wide = ((2, 8), (8, 2), (4, 4))[kind]
        row, column = (int(torch.randint(16 - side, (1,), generator=draws)) for side in (high, wide))
        where[i, 0, row : row + high, column : column + wide] = True
    return torch.where(where, x + 0.5, x), kinds, where


def trained(noise):
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 24, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(24 * 64, 3)),
    )
    x, kinds, _ = shapes(2048, 1)
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    for step in range(200):
        some = torch.arange(64 * step, 64 * step + 64) % len(x)
        noisy = x[some] + noise * torch.randn(x[some].shape)
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(noisy), kinds[some]).backward()
        optimiser.step()
    return network.eval()


tests, kinds, where = shapes(48, 2)
on_shape, rows = {}, []
for training in (0.0, 0.3):
    network = trained(training)
    right_share = float((network(tests).argmax(1) == kinds).float().mean())
    assert right_share > 0.95
    row = [("picture", tests[0].expand(3, -1, -1))]
    for explaining in (0.0, 0.3):
        method = ll.SmoothGrad(samples=32, noise=explaining) if explaining else ll.Gradient()
        found = ll.explain(network, tests, method, target=kinds).values.abs()
        on_shape[training, explaining] = float((found * where).sum() / found.sum())
        row.append((f"train {training}, explain {explaining}", found[0, 0].detach()))
    rows.append(row)
sheet(
    rows,
    "One picture, and its maps by noise in training (rows) and in explaining (columns). With noise in training the map keeps to "
    "the shape and its neighbourhood.",
)
for (training, explaining), share in on_shape.items():
    print(f"noise in training {training}, in explaining {explaining}: {share:.0%} of the magnitude on the shape")

# %%
assert on_shape[0.3, 0.0] > 1.5 * on_shape[0.0, 0.0] and on_shape[0.0, 0.3] > on_shape[0.0, 0.0]
assert where.float().mean() < 0.07

# %% [markdown]
# ## Grad-CAM by layer
# Grad-CAM of the tiger cat, from early layers to the last one. Early maps follow edges, and late ones are coarse blobs
# on the face.
# %%
layers = ["network.blocks.2", "network.blocks.4", "network.blocks.10", "network.head"]
by_layer = ll.sweep(model, x[:1], "grad-cam", layer=layers)
sheet(
    [[("tiger cat", x[0]), *((layer, by_layer[k].viewed()[0]) for k, layer in enumerate(layers))]],
    "Grad-CAM at four layers for the tiger cat. Early layers follow the outlines of the eyes, block 10 has spots on the fur, and the last layer a coarse frame around the face.",
)
sizes = [tuple(each.raw.shape[-2:]) for each in by_layer.values()]
print("grids:", sizes)
assert sizes == sorted(sizes, reverse=True)
