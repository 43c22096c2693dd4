"""How good the predictions are: metrics, plate assignment, scores by slice, leaderboard and
figures. No torch.
"""
