"""Code that rewards and evaluation share. Imports nothing of swift and runs under ms-swift too."""
