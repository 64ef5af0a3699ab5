"""The claim of the paper in miniature: do knowledge graphs and hard samples make answers better and checkable?"""
