-- What every script about one webhook begins with: the layout of the keys, and the changes of a
-- webhook's index entries. KEYS are all keys that the script touches. ARGV[1] is the time now in
-- milliseconds. An absent value is the empty string.
--
-- w:TASK   the record:
--            r  its JSON
--            v  revision
--            s  status, as a code of STATUS
--            d  due_at
--            a  archived_at, of dead letters only, in 15 digits
--            x  expires_at
--            f  reference id, only if the caller gave it
--            i  the webhook's id
--            t  a random name of the call that created it
--            o  the process of the latest claim that had a name, and that claim
--          or a tombstone, with the only field
--            z  why no webhook can be created under the id
-- c:TASK   the content: u URL, h headers as JSON, p payload
--
-- time     every webhook, by task id       ref:REFERENCE    those of one reference id
-- status   STATUS:TASK of all but delivered ones
-- due      ids by due_at; a webhook that is not due has no entry
-- dead     archived_at:TASK                dead:REFERENCE   those of one reference id
-- expiry   by expires_at; the text names all index entries, because the record may be gone
-- counts   webhooks per status
--
-- ref and dead:REFERENCE are passed only for webhooks that may have a reference id.
local time, status, due, dead, expiry, counts, w, c, ref, dead_ref = unpack(KEYS)
local now = tonumber(ARGV[1])

-- The codes of `Status::code` in shared/src/status.rs. Stored, so a code never changes.
local STATUS = {
  pending = '0', in_progress = '1', retrying = '2', delivered = '3', failed = '4',
}

local function load()
  local found = redis.call('HMGET', w, 'v', 's', 'd', 'a', 'x', 'f', 'i', 't')
  if not found[1] then return nil end
  for at = 2, 8 do found[at] = found[at] or '' end
  local v, s, d, a, x, f, i, t = unpack(found)
  return { v = v, s = s, d = d, a = a, x = x, f = f, i = i, t = t }
end

local function is_expired(one) return one.x ~= '' and tonumber(one.x) <= now end

local function expiry_entry(task, one)
  return table.concat({ task, one.s, one.a, one.f, one.i }, '|')
end

local function dead_letter(command, task, one)
  if one.a == '' then return end
  local member = one.a .. ':' .. task
  for _, list in ipairs({ dead, one.f ~= '' and dead_ref or nil }) do
    if command == 'ZADD' then
      redis.call('ZADD', list, 0, member)
    else
      redis.call('ZREM', list, member)
    end
  end
end

-- Moves the index entries from the record `old` to the record `new`. An `old` without a status is
-- no record.
local function move(task, old, new)
  if old.s ~= new.s then
    if old.s then
      if old.s ~= STATUS.delivered then redis.call('ZREM', status, old.s .. ':' .. task) end
      redis.call('HINCRBY', counts, old.s, -1)
    end
    if new.s ~= STATUS.delivered then redis.call('ZADD', status, 0, new.s .. ':' .. task) end
    redis.call('HINCRBY', counts, new.s, 1)
  end
  if old.d ~= new.d then
    if new.d ~= '' then
      redis.call('ZADD', due, new.d, new.i)
    else
      redis.call('ZREM', due, new.i)
    end
  end
  if old.a ~= new.a then
    dead_letter('ZREM', task, old)
    dead_letter('ZADD', task, new)
  end
  if old.x ~= '' then redis.call('ZREM', expiry, expiry_entry(task, old)) end
  if new.x ~= '' then redis.call('ZADD', expiry, new.x, expiry_entry(task, new)) end
  -- Earlier versions gave finished webhooks a time to live.
  if old.x ~= '' then
    redis.call('PERSIST', w)
    redis.call('PERSIST', c)
  end
end

-- Deletes the webhook with all its index entries.
local function remove(task, one)
  redis.call('UNLINK', w, c)
  redis.call('ZREM', time, task)
  if one.s ~= STATUS.delivered then redis.call('ZREM', status, one.s .. ':' .. task) end
  redis.call('HINCRBY', counts, one.s, -1)
  if one.f ~= '' then redis.call('ZREM', ref, task) end
  if one.d ~= '' then redis.call('ZREM', due, one.i) end
  dead_letter('ZREM', task, one)
  if one.x ~= '' then redis.call('ZREM', expiry, expiry_entry(task, one)) end
end

-- Bars the id, under which there is no record, until that time.
local function add_tombstone(why, until_ms)
  if tonumber(until_ms) <= now then return end
  redis.call('HSET', w, 'z', why)
  redis.call('PEXPIRE', w, string.format('%.0f', tonumber(until_ms) - now))
end

-- Deletes targets that were not used since that time.
local function purge_targets(targets, revisions, restricting, counters, used, before)
  local MAX_PURGED = 10
  local stale =
    redis.call('ZRANGE', used, '-inf', '(' .. before, 'BYSCORE', 'LIMIT', 0, MAX_PURGED)
  for _, name in ipairs(stale) do
    for _, hash in ipairs({ targets, revisions, counters }) do redis.call('HDEL', hash, name) end
    for _, set in ipairs({ restricting, used }) do redis.call('ZREM', set, name) end
  end
end

local function content() return redis.call('HMGET', c, 'u', 'h', 'p') end
