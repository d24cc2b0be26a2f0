-- Replaces the document of an application. Returns 'done', or 'changed' with the stored document
-- ('' for none).
-- KEYS: the document: r its JSON, v its revision.
-- ARGV: the revision that must be stored, revision, document.
local document = KEYS[1]
local found = redis.call('HMGET', document, 'v', 'r')
if found[1] ~= ARGV[1] then
  -- The same bytes are the same document: an earlier try of this write took effect.
  if found[2] == ARGV[3] then return { 'done' } end
  return { 'changed', found[2] or '' }
end
redis.call('HSET', document, 'r', ARGV[3], 'v', ARGV[2])
return { 'done' }
