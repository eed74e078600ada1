"""Pure: conditions and references, in a subset of CEL's syntax that cannot run away.

The subset: literals, lists, `a.b`, `a[0]`, `a["b"]`, `! - * / % + < <= > >= == != in && || ?:`,
`has(a.b)`, `size`, `string`, `int`, `double`, and of strings `contains`, `startsWith`, `endsWith`.
There are no macros over lists, no regular expressions and no functions of time, so an evaluation
takes at most as many operations as the source has characters. As in CEL, `&&` and `||` forgive an
error on one side when the other side decides; unlike CEL, whole and floating numbers mix, for JSON
does not tell them apart.

Source: CEL language definition, cel-spec/doc/langdef.md.
"""

from plumd.expressions.parser import (
    DEPTH_MAX,
    SOURCE_CHARS_MAX,
    Wrong,
    parse,
    parse_reference,
)
from plumd.expressions.tree import Expr, Look, Ref, references
from plumd.expressions.values import Failure, Path, Value, item_of, path_text, text_of, truth, walk

__all__ = ["DEPTH_MAX", "SOURCE_CHARS_MAX", "Expr", "Failure", "Look", "Path", "Ref", "Value",
           "Wrong", "item_of", "parse", "parse_reference", "path_text", "references", "text_of",
           "truth", "walk"]
