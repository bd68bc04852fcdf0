"""Files of the archive for the browser: downloads, ZIP files, headers, pictures."""
