"""Published results, measured again: `__all__` is the registry that `seepage reproduce` reads.

Each module of this folder is one paper: its docstring begins with the title, and its function
`reproduce(quick, folder)` yields one `Claim` after another as they are found.
"""

__all__ = [
    "believed",
    "dager",
    "dlg",
    "dropout_inversion",
    "finisher",
    "flower_ldp",
    "guard",
    "hgap",
    "instahide",
    "inverting_gradients",
    "label_counts",
    "lamp",
    "lei_defenses",
    "liu2024",
    "matching",
    "matching_cost",
    "pooler",
    "precode",
    "rero",
    "rgap",
    "rgap_rank",
    "robbing_the_fed",
    "soteria",
    "span_defenses",
    "svt_budget",
    "wang2023",
]
