"""The figures of a report; each module makes the parts of one topic."""
