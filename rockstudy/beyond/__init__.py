"""Beyond the paper: why rocks persist, what to freeze, and whether the teacher helps at a rock.

A part for each of the notebooks 08, 09 and 10.
"""
