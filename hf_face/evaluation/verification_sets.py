"""Commonly reported verification sets and their papers. InsightFace distributes all but XQLFW as .bin files."""

LFW = """
@techreport{lfw,
  title = {Labeled Faces in the Wild: A Database for Studying Face Recognition in Unconstrained Environments},
  author = {Huang, Gary B. and Ramesh, Manu and Berg, Tamara and Learned-Miller, Erik},
  institution = {University of Massachusetts, Amherst},
  number = {07-49},
  year = {2007}
}
"""

CFP = """
@inproceedings{cfp,
  title = {Frontal to Profile Face Verification in the Wild},
  author = {Sengupta, Soumyadip and Chen, Jun-Cheng and Castillo, Carlos and Patel, Vishal M. and Chellappa, Rama and
            Jacobs, David W.},
  booktitle = {Winter Conference on Applications of Computer Vision},
  year = {2016}
}
"""

AGEDB = """
@inproceedings{agedb,
  title = {AgeDB: The First Manually Collected, In-the-Wild Age Database},
  author = {Moschoglou, Stylianos and Papaioannou, Athanasios and Sagonas, Christos and Deng, Jiankang and
            Kotsia, Irene and Zafeiriou, Stefanos},
  booktitle = {Conference on Computer Vision and Pattern Recognition Workshops},
  year = {2017}
}
"""

CALFW = """
@article{calfw,
  title = {Cross-Age LFW: A Database for Studying Cross-Age Face Recognition in Unconstrained Environments},
  author = {Zheng, Tianyue and Deng, Weihong and Hu, Jiani},
  journal = {arXiv preprint arXiv:1708.08197},
  year = {2017}
}
"""

CPLFW = """
@techreport{cplfw,
  title = {Cross-Pose LFW: A Database for Studying Cross-Pose Face Recognition in Unconstrained Environments},
  author = {Zheng, Tianyue and Deng, Weihong},
  institution = {Beijing University of Posts and Telecommunications},
  number = {18-01},
  year = {2018}
}
"""

XQLFW = r"""
@inproceedings{xqlfw,
  title = {Cross-Quality LFW: A Database for Analyzing Cross-Resolution Image Face Recognition in Unconstrained
           Environments},
  author = {Knoche, Martin and H{\"o}rmann, Stefan and Rigoll, Gerhard},
  booktitle = {International Conference on Automatic Face and Gesture Recognition},
  year = {2021}
}
"""

VERIFICATION_SETS = {
    "lfw": LFW,
    "cfp_fp": CFP,
    "cfp_ff": CFP,
    "agedb_30": AGEDB,
    "calfw": CALFW,
    "cplfw": CPLFW,
    "xqlfw": XQLFW,
}
