"""Which trials run, how long, and which become finalists."""
