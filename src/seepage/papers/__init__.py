"""Published results, measured again: `__all__` is the registry that `seepage reproduce` reads.

Each module of this folder is one paper: its docstring begins with the title, and its function
`reproduce(quick, folder)` yields one `Claim` after another as they are found.
"""

__all__ = ["liu2024", "wang2023"]
