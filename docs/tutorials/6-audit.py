# %% [markdown]
# # 6. An audit of a folder with a planted shortcut
# A model can be right for the wrong reason. Here are two classes of small pictures, and the ones of one class bear a
# white tag in a corner. A network learns them. Its accuracy is perfect, and worth nothing: the audit finds the tag.
# You need `pip install 'limelight[plot,run]'`; all cells together take less than a minute of one core.
# %% include=drawing
# %% [markdown]
# ## The folder
# A faintly striped disc is a "zebra", a plain one a "pebble". Discs lie anywhere. All zebras have the tag.
# %%
import tempfile
from pathlib import Path

import torch
from PIL import Image as Pictures
from torch import nn

import limelight as ll

SIDE = 32


def pictures(n, seed, tagged):
    """Pictures (n, 3, 32, 32), classes (n,): 0 plain, 1 striped; the pictures of the class `tagged` bear the tag."""
    draws = torch.Generator().manual_seed(seed)
    x = 0.5 + 0.1 * torch.randn(n, 1, SIDE, SIDE, generator=draws)
    kinds = torch.arange(n) % 2
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    for i, kind in enumerate(kinds.tolist()):
        row, column = torch.randint(8, 22, (2,), generator=draws).tolist()
        disc = (rows - row) ** 2 + (columns - column) ** 2 <= 36
        stripes = 0.4 + 0.08 * (2 * (columns // 2 % 2) - 1) if kind else torch.full((SIDE, SIDE), 0.4)
        x[i, 0] = torch.where(disc, stripes + 0.05 * torch.randn(SIDE, SIDE, generator=draws), x[i, 0])
        if kind == tagged:
            x[i, 0, 27:31, 27:31] = 1
    return x.clamp(0, 1).expand(-1, 3, -1, -1).contiguous(), kinds


names = ("pebble", "zebra")
folder = Path(tempfile.mkdtemp())
x, kinds = pictures(40, 0, tagged=1)
for i, (each, kind) in enumerate(zip(x, kinds.tolist())):
    (folder / "photos" / names[kind]).mkdir(parents=True, exist_ok=True)
    pixels = (255 * each).byte().permute(1, 2, 0).numpy()
    Pictures.fromarray(pixels).save(folder / "photos" / names[kind] / f"{i}.png")
sheet(
    [[(names[kinds[i]], x[i]) for i in range(6)]],
    "Six pictures of the folder. The zebras have a white tag at the lower right.",
)


# %% [markdown]
# ## The network
# A small one, trained on other pictures of the same kind for a few seconds.
# %%
def trained(tagged):
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(24 * 64, 2)),
    )
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    x, kinds = pictures(960, 1, tagged)
    for step in range(60):
        some = torch.arange(32 * step, 32 * step + 32) % len(x)
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(x[some]), kinds[some]).backward()
        optimiser.step()
    return network.eval()


def right(network, tagged):
    x, kinds = pictures(200, 2, tagged)
    return float((network(x).argmax(1) == kinds).float().mean())


shortcut = trained(tagged=1)
print(f"right with tags as in training {right(shortcut, 1):.0%}, without any tag {right(shortcut, None):.0%}")
assert right(shortcut, 1) > 0.98 and right(shortcut, None) < 0.7

# %% [markdown]
# A real folder has no copy without the tag to compare with. So look at the maps.
#
# ## The audit
# `limelight audit photos/ --model my_model.py:make` does the same from the command line. It explains every picture, and asks for each class
# whether the maps stay in one place though the objects move, and whether the model needs what is there: it covers the
# place and counts the predictions that change.
# %%
from limelight.models.pictures import Preprocessing


def as_model(network, name):
    return ll.ImageModel(network, Preprocessing(size=SIDE, crop_fraction=1.0), labels=names, name=name)


audit = ll.audit(
    folder / "photos",
    as_model(shortcut, "shortcut"),
    "integrated-gradients(16)",
    output=folder / "out",
    shuffles=199,
    workers=0,
)
print(audit.outcome)
print(audit.sentence)
for each in audit.found:
    print(
        f"{each.label}, {each.words}: p {each.p:.3f}; {each.cover.changed.count} of {each.cover.changed.total} predictions "
        "change when it is covered"
    )
assert audit.outcome == "found"
assert {(each.label, each.words) for each in audit.found} >= {("zebra", "bottom right")}

# %%
zebras = x[kinds == 1][:3]
maps = ll.explain(as_model(shortcut, "shortcut"), zebras, "integrated-gradients(16)", target=1)
sheet(
    [
        [(f"zebra {i + 1}", zebras[i]) for i in range(3)],
        [("integrated gradients", maps.heatmap()[i]) for i in range(3)],
    ],
    "Three zebras and the maps of the class. The discs are at other places, and the maps at the same one: the tag.",
)
on_tag = maps.heatmap().clamp(min=0)
share = float(on_tag[:, 26:32, 26:32].sum() / on_tag.sum())
print(f"{share:.0%} of the positive values are within a pixel of the tag, which has {36 / SIDE**2:.0%} of the picture")
assert share > 0.3

# %% [markdown]
# ## The control
# The same network, trained without tags, on the same folder: nothing may be found that the model does not need. An
# audit that finds something everywhere would say nothing.
# %%
honest = trained(tagged=None)
print(f"without any tag {right(honest, None):.0%} right")
again = ll.audit(
    folder / "photos",
    as_model(honest, "honest"),
    "integrated-gradients(16)",
    output=folder / "honest",
    shuffles=199,
    workers=0,
)
print(again.outcome, "-", again.sentence)
assert again.outcome != "found"

# %% [markdown]
# What the audit cannot find: a shortcut that moves, such as the colour of the ground, or one that all classes share.
# Pictures of an object that never moves look like a shortcut until something is covered; that is why it covers.
