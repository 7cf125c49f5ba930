import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # other processes import ranks.py by its name
