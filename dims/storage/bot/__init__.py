"""`bot.db`: one bot's rows, through transactions, sessions and repositories."""
