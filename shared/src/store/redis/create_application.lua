-- Creates the document of an application. Returns 'done', 'changed' with the stored document, or
-- 'full'.
-- KEYS: the document: r its JSON, v its revision; applications: the ids of all.
-- ARGV: id, revision, document, whether memory is nearly full.
local document, ids = unpack(KEYS)
local stored = redis.call('HGET', document, 'r')
if stored then
  -- The same bytes are the same document: an earlier try of this write took effect.
  return stored == ARGV[3] and { 'done' } or { 'changed', stored }
end
if ARGV[4] == '1' then return { 'full' } end
redis.call('HSET', document, 'r', ARGV[3], 'v', ARGV[2])
redis.call('ZADD', ids, 0, ARGV[1])
return { 'done' }
