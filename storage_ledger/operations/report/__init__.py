"""Reports for operators, shared by commands and web pages: the state of the service and of each study."""
