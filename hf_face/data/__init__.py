from .augmentation import build_augmentation
from .collator import FaceCollator
from .conversion import convert_to_parquet, open_for_conversion
from .decode import UndecodableImageError
from .identities import as_identities, check_identities, load_identities
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
