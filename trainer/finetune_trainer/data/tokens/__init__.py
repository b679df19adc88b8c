"""The token form of a source: what became of each of its records, stored once and read by every job alike.

`publish` writes it, `find_form` finds the one that suits, `TokenReader` reads it; docs/adr/0016-token-form.md.
"""
