"""Public data sets brought into the layout of this project, and facts about files of records."""
