-- ARGV: now, task, id, revision that the stored record must have ('' for any), until when the id is retired. Whether there was one that had not expired.
local task = ARGV[2]
local kind = redis.call('TYPE', w).ok
if kind == 'none' then return 0 end
if kind ~= 'hash' then
  -- Somebody else wrote under this key. Nothing tells which entries its webhook had, so all that it can have had go.
  for s = 0, 4 do redis.call('ZREM', status, s .. ':' .. task) end
  redis.call('ZREM', time, task)
  redis.call('ZREM', ref, task)
  redis.call('ZREM', due, ARGV[3])
  redis.call('UNLINK', w, c)
  retire('deleted', ARGV[5])
  return 1
end
local found = load()
if not found or found.i ~= ARGV[3] then return 0 end
if ARGV[4] ~= '' and found.v ~= ARGV[4] then return 0 end
remove(task, found)
retire('deleted', ARGV[5])
return is_expired(found) and 0 or 1
