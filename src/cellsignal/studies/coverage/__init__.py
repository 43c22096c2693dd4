"""How often the 95 % intervals hold the truth, and probabilities after assignment come true."""
