"""Attention in packed rows: dense masks, FlexAttention, and flash attention in parts."""
