"""The task-learning stage: learners are meta-trained on weighted episodes of many tasks."""
