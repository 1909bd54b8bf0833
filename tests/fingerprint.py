"""Print a hash of every method's map on fixed small cases: `python -m tests.fingerprint > before.txt`.

Run it before and after a change that must not move a single bit, on the same machine, and compare the two outputs.
"""

from __future__ import annotations

import hashlib

import torch

import limelight as ll

from . import conftest  # noqa: F401  two threads, or one where the environment says so
from .networks import CASES, conv_net, patterns_for, pictures


def fingerprint(attribution: ll.Attribution) -> str:
    """A hash of all tensors that an explanation returns, and of its row counts."""
    digest = hashlib.blake2b(digest_size=12)
    for name in ("values", "raw", "score", "baseline_score", "stderr", "raw_stderr", "spread", "outputs"):
        tensor = getattr(attribution, name)
        digest.update(name.encode() if tensor is None else tensor.detach().contiguous().numpy().tobytes())
    digest.update(f"{attribution.forward_rows} {attribution.backward_rows} {attribution.layer}".encode())
    return digest.hexdigest()


def main() -> None:
    net, x = conv_net(), pictures()
    single = conv_net().float()
    for method in CASES:
        asked = patterns_for(single, method)
        print(
            fingerprint(ll.explain(net, x, method, target=[0, 1, 2], baseline=ll.Noise(samples=2))),
            fingerprint(ll.explain(net, x[:1], method, baseline=ll.Blur(2.0), seed=3)),
            fingerprint(ll.explain(single, x.float(), asked, target=ll.Margin(1), rows_per_pass=2)),
            fingerprint(ll.explain(net, x, method, target=[[0, 1], [2, 3], [4, 0]])),
            repr(method).partition("(")[0],
        )


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
