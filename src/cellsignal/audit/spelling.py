"""Compare names and chemical keys of compounds as a chemist would, not as text."""

import re

INCHIKEY = re.compile(r"[A-Z]{14}-[A-Z]{10}-[A-Z]")
# counter-ions and solvates that are written behind a compound's name
_SALTS = (
    *("hydrochloride", "dihydrochloride", "trihydrochloride", "hydrobromide", "hcl", "2hcl"),
    *("hbr", "sodium", "disodium", "potassium", "calcium", "magnesium", "lithium", "sulfate"),
    *("sulphate", "hemisulfate", "phosphate", "diphosphate", "nitrate", "acetate", "citrate"),
    *("maleate", "malate", "fumarate", "hemifumarate", "tartrate", "bitartrate", "succinate"),
    *("mesylate", "mesilate", "dimesylate", "tosylate", "besylate", "oxalate", "lactate"),
    *("bromide", "chloride", "iodide", "trifluoroacetate", "tfa", "hydrate", "monohydrate"),
    *("dihydrate", "hemihydrate", "trihydrate", "salt"),
)
_STEREO = re.compile(
    r"[\(\[]\s*(?:[±+\-]|\+/-|-/\+|(?:\d*[rsez]{1}\*?\s*,?\s*)+|rac|dl|d|l)\s*[\)\]]\s*-?|"
    r"(?:\b|^)(?:dl|rac|cis|trans|[rsdl])-(?=[a-z0-9])",
)
_PREFIX = re.compile(r"^(?:[±]|\+/-|dextro|levo)[- ]*")


def loosely(name: str) -> str:
    """Return a name without case, blanks, signs and leading zeros: "HUVEC-01" is "huvec1"."""
    words = re.findall(r"[^\W\d_]+|\d+", str(name).casefold())
    return " ".join(word.lstrip("0") or "0" if word.isdigit() else word for word in words)


def substance(name: str) -> str:
    """Return a compound's name without case, stereo prefix, salt, blanks and signs.

    "(S)-Propranolol hydrochloride" and "propranolol HCl" are both "propranolol". Two names of one
    substance that share no letters are not known as such: an InChIKey is.
    """
    text = str(name).casefold().strip()
    text = _PREFIX.sub("", _STEREO.sub("", text))
    words = [word for word in re.split(r"[\s,()\[\]]+|(?<=[a-z])-(?=hcl\b)", text) if word]
    while len(words) > 1 and words[-1].strip(".") in _SALTS:
        words.pop()
    return re.sub(r"[^\w]", "", "".join(words)) or text


def skeleton(key: str) -> str | None:
    """Return the first block of an InChIKey: equal in stereoisomers; None for other text."""
    key = str(key).strip().upper()
    return key[:14] if INCHIKEY.fullmatch(key) else None
