-- Which database this is: server, timeline, database and table, as the server itself names them. Another one means that it was restored
-- from a backup, so a new epoch begins. Empty until the first service of this version has looked.
ALTER TABLE cluster ADD COLUMN identity text;
