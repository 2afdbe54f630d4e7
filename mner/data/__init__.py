"""Posts: files, data sets, batches, data modules."""

from mner.data.batch import Batch, Example
from mner.data.collate import BucketSampler, Collate
from mner.data.datamodule import MNERDataModule
from mner.data.dataset import MNERDataset
from mner.data.huggingface import DatasetsDataModule
from mner.data.readers import read_conll, read_jsonl
from mner.data.sample_module import SampleDataModule
from mner.data.snapchat import SnapchatDataModule
from mner.data.to_datasets import to_dataset, to_datasets
from mner.data.twitter import Twitter2015DataModule, Twitter2017DataModule

__all__ = [
    "Batch",
    "BucketSampler",
    "Collate",
    "DatasetsDataModule",
    "Example",
    "MNERDataModule",
    "MNERDataset",
    "SampleDataModule",
    "SnapchatDataModule",
    "Twitter2015DataModule",
    "Twitter2017DataModule",
    "read_conll",
    "read_jsonl",
    "to_dataset",
    "to_datasets",
]
