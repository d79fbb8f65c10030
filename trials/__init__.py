"""What a trial does: one or many of them trained, adapted and scored side by side."""
