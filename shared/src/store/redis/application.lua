-- Writes the document of an application. Returns 'done', 'changed' with the stored document ('' for
-- none), or 'full'.
-- KEYS: applications (their ids), the document: r its JSON, v its revision.
-- ARGV: id, the revision that must be stored ('' for none), revision, document, whether memory is
-- nearly full.
local ids, document = unpack(KEYS)
local found = redis.call('HMGET', document, 'v', 'r')
local stored = found[1] or ''
if stored ~= ARGV[2] then
  -- The same bytes are the same document: an earlier try of this write took effect.
  if found[2] == ARGV[4] then return { 'done' } end
  return { 'changed', found[2] or '' }
end
if stored == '' and ARGV[5] == '1' then return { 'full' } end
redis.call('HSET', document, 'r', ARGV[4], 'v', ARGV[3])
redis.call('ZADD', ids, 0, ARGV[1])
return { 'done' }
