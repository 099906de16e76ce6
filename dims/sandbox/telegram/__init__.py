"""The world of the local Telegram: accounts, message boxes, who is told what."""
