"""An event-sourced archive for described DICOM studies."""

__version__ = "0.1.0"
