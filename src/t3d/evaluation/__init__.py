"""Score whole videos, measure the scores, and predict."""
