"""Read the aligned tables that `common.tables.aligned` makes."""

import re


def flush_right(text: str) -> list[str]:
    """Return the headers of the columns whose cells all end where the column does.

    Columns whose cells are empty or as wide as the column are left out: they tell neither side.
    """
    header, rule, *rows = text.splitlines()
    names = []
    for start, end in (match.span() for match in re.finditer("-+", rule)):
        cells = [line[start:end].ljust(end - start) for line in (header, *rows)]
        texts = [cell.strip() for cell in cells]
        tells_side = any(0 < len(text) < end - start for text in texts)
        if tells_side and cells == [text.rjust(end - start) for text in texts]:
            names.append(texts[0])
    return names
