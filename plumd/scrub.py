"""Pure: a text without what looks like a secret, for those who help and need not know it.

What is hidden: user and password of a URL, the value behind a word like password, token or secret,
an Authorization header, private keys in PEM, and JSON Web Tokens. It is a net, no proof: what is
given away should hold no free texts in the first place.
"""

from __future__ import annotations

import re
from typing import Final

HIDDEN: Final = "***"
_PEM: Final = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]{0,40}"
                         r"PRIVATE KEY-----|\Z)", re.DOTALL)
_URL: Final = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]{0,20}://)[^\s/@\"'<>]{1,500}@",
                         re.IGNORECASE)
_HEADER: Final = re.compile(r"(?P<head>\b(?:proxy-)?authorization\b[\"']?\s*[:=]\s*[\"']?)"
                            r"(?:(?:basic|bearer|digest)\s+)?[^\s\"',;]+", re.IGNORECASE)
_BEARER: Final = re.compile(r"(?P<head>\bbearer\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_NAMED: Final = re.compile(
    r"(?P<head>(?:password|passwd|passphrase|secret|token|api[_-]?key|private[_-]?key|"
    r"credential)s?[\w-]{0,20}\\?[\"']?\s{0,4}[:=]\s{0,4})"
    r"(?:\\\"[^\"\\]*\\\"|\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^\s\"',;&}\])]+)", re.IGNORECASE)
_JWT: Final = re.compile(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]*")


def scrubbed(text: str) -> str:
    """The text with *** in the place of secrets. Its length is no secret, so it is not kept."""
    text = _PEM.sub(HIDDEN, text)
    text = _URL.sub(rf"\g<scheme>{HIDDEN}@", text)
    text = _HEADER.sub(rf"\g<head>{HIDDEN}", text)
    text = _BEARER.sub(rf"\g<head>{HIDDEN}", text)
    text = _NAMED.sub(quoted, text)
    return _JWT.sub(HIDDEN, text)


def quoted(found: re.Match[str]) -> str:
    """The name and ***; in quotes where the value was, so that JSON stays JSON."""
    value = found[0][len(found["head"]):]
    mark = '\\"' if value.startswith('\\"') else value[0] if value[0] in "\"'" else ""
    if not mark and re.fullmatch(r"true|false|null|-?[0-9.]+|[{\[].*", value):
        return found[0]         # a number or a word of JSON is a setting, and no secret
    return f"{found['head']}{mark}{HIDDEN}{mark}"
