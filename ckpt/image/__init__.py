"""The image file: frames, writer, reader, page extents."""
