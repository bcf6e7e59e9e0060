"""The JSON documents of HTTP responses and of `--json`. Names are camelCase, times ISO 8601 in UTC.

Each class has a constructor `of` that takes the value of the core that it shows. FastAPI is not imported here.
"""
