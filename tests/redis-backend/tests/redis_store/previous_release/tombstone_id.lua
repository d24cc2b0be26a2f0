-- Bars an id under which there is no webhook. Returns the record that exists, or the tombstone.
-- ARGV: now, when the tombstone expires, its text.
local record = redis.call('HGET', w, 'r')
if record then return { record, false } end
local tombstone = redis.call('HGET', w, 'z')
if not tombstone then
  tombstone = ARGV[3]
  add_tombstone(tombstone, ARGV[2])
end
return { false, tombstone }
