from .identities import as_identities, check_identities, load_identities
from .orl import load_orl
from .pairs import VerificationPairs, make_verification_pairs
from .subsets import compact_labels, merge_identities, select_identities, split_identities
