"""Sources of images and identities, of verification pairs, and what carries them to the device."""

from .augmentation import build_augmentation
from .collator import FaceCollator
from .conversion import convert_to_parquet, open_for_conversion
from .decode import UndecodableImageError
from .device_decoding import DeviceDecoder
from .identities import as_identities, check_identities, load_identities
from .images import load_images
from .loading import FaceDataset
from .normalize import BatchNormalize
from .orl import load_orl
from .pair_files import load_verification_pairs
from .pairs import VerificationPairs, make_verification_pairs
from .recordio import Record, RecordIO
from .recordio_writer import write_recordio
from .streaming import FaceStream
from .subsets import compact_labels, merge_identities, select_identities, split_identities
from .verification_bin import UnsafePickleError, read_verification_bin

__all__ = [
    "BatchNormalize",
    "DeviceDecoder",
    "FaceCollator",
    "FaceDataset",
    "FaceStream",
    "Record",
    "RecordIO",
    "UndecodableImageError",
    "UnsafePickleError",
    "VerificationPairs",
    "as_identities",
    "build_augmentation",
    "check_identities",
    "compact_labels",
    "convert_to_parquet",
    "load_identities",
    "load_images",
    "load_orl",
    "load_verification_pairs",
    "make_verification_pairs",
    "merge_identities",
    "open_for_conversion",
    "read_verification_bin",
    "select_identities",
    "split_identities",
    "write_recordio",
]
