"""Which examples share a batch, so that they are negatives worth learning from.

Return one from a trainer's `get_batch_sampler`, as `training.fitting` does; given in its arguments it would be saved
with every checkpoint, arrays and all. Each is a pure
function of seed and epoch, so a resumed training sees the same batches.
"""

from training.batches.clustered import ClusterBatchSampler
from training.batches.epochs import EpochCallback
from training.batches.parts import PartBatchSampler
from training.batches.shuffled import ShuffledBatchSampler
from training.batches.topic import TopicBatchSampler
from training.batches.walk import GraphWalkBatchSampler

__all__ = [
    "ClusterBatchSampler",
    "EpochCallback",
    "GraphWalkBatchSampler",
    "PartBatchSampler",
    "ShuffledBatchSampler",
    "TopicBatchSampler",
]
