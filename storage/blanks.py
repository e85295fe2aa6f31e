"""The blanks of a document as the published OpenWebText has them: what Hugging Face's loader does to each text.

https://github.com/huggingface/datasets/blob/1.18.4/datasets/openwebtext/openwebtext.py reads a member as text, in which
Python makes each `\\r\\n` and each `\\r` a `\\n`, and keeps `re.sub("\\n\\n\\n+", "\\n\\n", text).strip()`.
"""

import re

# What `str.strip()` takes for a blank, and so does the loader.
BLANKS = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
_ASCII_BLANKS = b"".join(blank.encode() for blank in BLANKS if blank.isascii())
_BLANKS_AT_START = re.compile(b"(?:" + b"|".join(re.escape(blank.encode()) for blank in BLANKS) + b")*")
_MANY_LINE_ENDS = re.compile(b"\n\n\n+")
_WINDOW_BYTES = 64


def as_hugging_face(utf8: bytes) -> bytes:
    """A text as Hugging Face's OpenWebText has it: line ends are `\\n`, at most two in a row, and no blanks at either end.

    `utf8` is valid UTF-8. What is nothing but blanks becomes empty. Beyond that loader, brickroad removes a byte order
    mark before it comes here.
    """
    if b"\r" in utf8:
        utf8 = utf8.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b"\n\n\n" in utf8:
        utf8 = _MANY_LINE_ENDS.sub(b"\n\n", utf8)
    utf8 = utf8.strip(_ASCII_BLANKS)
    if utf8[:1].isascii() and utf8[-1:].isascii():  # and so there are no other blanks to remove
        return utf8
    return utf8[_text_start(utf8) : _text_end(utf8)]


def _text_start(utf8: bytes) -> int:
    found = _BLANKS_AT_START.match(utf8)
    assert found, "an expression that matches nothing matches everywhere"
    return found.end()


def _text_end(utf8: bytes) -> int:
    """Where the blanks at the end begin: from behind, some characters at a time, since a document may be long."""
    end = len(utf8)
    while end:
        start = max(0, end - _WINDOW_BYTES)
        while utf8[start] & 0xC0 == 0x80:  # a continuation byte of UTF-8
            start -= 1
        if kept := utf8[start:end].decode().rstrip():
            return start + len(kept.encode())
        end = start
    return 0
