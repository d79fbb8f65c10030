"""What a search says about its training tasks: which help, which harm, what mattered."""
