"""Which examples share a batch, so that they are negatives worth learning from.

Give one to a trainer as `batch_sampler=functools.partial(TopicBatchSampler, labels=...)`, or return it from an
overridden `get_batch_sampler`, which keeps its arrays out of the arguments that the trainer saves. Each is a pure
function of seed and epoch, so a resumed training sees the same batches.
"""

from training.batches.clustered import ClusterBatchSampler
from training.batches.epochs import EpochCallback
from training.batches.topic import TopicBatchSampler
from training.batches.walk import GraphWalkBatchSampler

__all__ = ["ClusterBatchSampler", "EpochCallback", "GraphWalkBatchSampler", "TopicBatchSampler"]
