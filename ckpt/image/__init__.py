"""The image: one file of frames that holds records and pages.

Owns the file format, its writer and its reader. Knows no kernel object: the types of records are
an argument. Nothing here prints. `docs/image-format.md` describes the bytes.
"""
