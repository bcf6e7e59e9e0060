"""Programs that use batchflow as an application would; nothing in the library imports them."""
