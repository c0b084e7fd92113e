"""Rows that attend over their own length get what one masked product over all of them gives."""

import pytest
import torch

from algorithms.engine import row_attention
from algorithms.engine.row_attention import RowMask, cached_rows_attention

KV_HEADS, GROUP, DIM, SLOTS = 2, 3, 8, 400
LENGTHS = [0, 3, 5, 390, 210, 200, 205, 399]


@pytest.mark.parametrize("call", [0, 8, 64, 10**9], ids=lambda call: f"a call is worth {call}")
@pytest.mark.parametrize("window", [None, 1, 4, 150])
@pytest.mark.parametrize("width", [1, 7])
def test_equals_one_masked_product(monkeypatch, call, window, width):
    monkeypatch.setattr(row_attention, "CALL", call)
    generator = torch.Generator().manual_seed(0)
    rows = len(LENGTHS)
    slots = (torch.tensor(LENGTHS)[:, None] + torch.arange(width)).clamp(max=SLOTS - 1)
    query = torch.randn(rows, KV_HEADS * GROUP, width, DIM, generator=generator)
    key, value = (torch.randn(rows, KV_HEADS, SLOTS, DIM, generator=generator) for _ in range(2))
    mask = RowMask(slots, GROUP, torch.float32)
    found, _ = cached_rows_attention(
        torch.nn.Identity(), query, key, value, None, sliding_window=window, row_mask=mask
    )
    seen = torch.arange(SLOTS) <= slots[:, :, None]
    if window is not None:
        seen &= torch.arange(SLOTS) > slots[:, :, None] - window
    key, value = (part.repeat_interleave(GROUP, 1) for part in (key, value))
    scores = (query @ key.transpose(2, 3) / DIM**0.5).masked_fill(~seen[:, None], -torch.inf)
    wanted = (scores.softmax(-1) @ value).transpose(1, 2)
    assert torch.allclose(found, wanted, atol=1e-5)
    groups = mask.groups(window)
    assert [low for low, *_ in groups] == [0, *(high for _, high, *_ in groups[:-1])]
    assert groups[-1].high == rows
    assert call or width > 1 or all(group.mask is None for group in groups)


def test_long_rows_do_not_share_a_call_with_short_ones():
    slots = torch.tensor([20, 21, 22, 900, 910, 30])[:, None]
    groups = RowMask(slots, GROUP, torch.float32).groups(None)
    assert [(low, high, end) for low, high, _, end, _ in groups] == [
        (0, 3, 23),
        (3, 5, 911),
        (5, 6, 31),
    ]
