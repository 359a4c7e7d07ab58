"""What a spawned rank runs; apart from the tests, so that it imports little."""

from __future__ import annotations

import torch

from d2sm_plugin.seg.scorer import SegmentationScorer


def score_on_rank(rank: int, port: int, queue, options, keys, images) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    hook = SegmentationScorer(options)
    hook.add(keys[rank::2], torch.from_numpy(images[rank::2]))
    queue.put(hook.finish())
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
