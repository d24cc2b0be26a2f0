-- Puts a marker in place of a delivery's record. Returns 'deleted', 'missing' or 'changed'.
-- ARGV: now, place, id, until when the marker occupies the key, the revision that the record must
-- have ('' for any or none, '0' for none).
local place, message, expected = ARGV[2], ref, ARGV[5]
local is_foreign = redis.call('EXISTS', w) == 1 and not is_hash(w)
local found = not is_foreign and load()
local occupied_until = not is_foreign and redis.call('HGET', w, 'u')
if found and found.i ~= ARGV[3] then return 'missing' end
if expected ~= '' and not is_foreign then
  if found and is_expired(found) or not found and expected ~= '0' then return 'missing' end
  if found and found.v ~= expected then return 'changed' end
  if expected == '0' and occupied_until then return 'missing' end
end
if found then
  remove_entries(place, found)
elseif is_foreign then
  -- Nothing tells which index entries the delivery had, so delete every entry that it can have had.
  for _, code in pairs(STATUS) do redis.call('ZREM', status, code .. ':' .. place) end
  redis.call('ZREM', due, ARGV[3])
elseif expected == '0' then
  begin_delivery(message, place)
end
local until_ms = ARGV[4]
if occupied_until and tonumber(occupied_until) > tonumber(until_ms) then
  until_ms = occupied_until
end
occupy(place, ARGV[3], 'deleted', until_ms)
hold(message, place, nil)
return 'deleted'
