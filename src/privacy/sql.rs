//! The statements that remove a device from the bucket behind an uplink. fogbeat itself has no right to delete there.

/// Where readings of this gateway and device stand in a table.
pub struct Rows<'a> {
    /// `database.table`.
    pub table: &'a str,
    pub gateway: &'a str,
    /// Its name and its pseudonyms: whichever was delivered.
    pub names: &'a [String],
}

/// All columns of a published line that a table over the bucket has, in its order; the partitions come last.
const COLUMNS: &str = "id, type, gateway, site, device, source, time, time_quality, boot, uptime_ms, uncertainty_s, \
    device_time, bpm, rr_ms, contact, energy_kj, battery_percent, rssi_dbm, reason, gap_ms, generation, count, window_s, n, \
    bpm_n, bpm_min, bpm_mean, bpm_max, rr_n, first_seq, last_seq, cause, devices";

impl Rows<'_> {
    /// The condition under which a row is the device's.
    fn these(&self) -> String {
        let names: Vec<String> = self.names.iter().map(|name| quoted(name)).collect();
        format!("gateway = {} AND device IN ({})", quoted(self.gateway), names.join(", "))
    }

    /// For an Iceberg table. A DELETE alone leaves the rows in the old files: they are rewritten, and the old ones
    /// expire at once.
    pub fn iceberg(&self) -> String {
        let (table, these) = (self.table, self.these());
        format!(
            "DELETE FROM {table} WHERE {these};\n\
             ALTER TABLE {table} SET TBLPROPERTIES ('optimize_rewrite_delete_file_threshold' = '1', \
             'vacuum_max_snapshot_age_seconds' = '1', 'vacuum_min_snapshots_to_keep' = '1');\n\
             OPTIMIZE {table} REWRITE DATA USING BIN_PACK;\n\
             VACUUM {table};\n"
        )
    }

    /// For the table over the objects that Firehose wrote: Athena deletes no rows there, so the objects are replaced.
    pub fn objects(&self) -> String {
        let (table, these) = (self.table, self.these());
        format!(
            "-- 1. The objects that hold the device. Keep the list: step 3 deletes them.\n\
             SELECT DISTINCT \"$path\" FROM {table} WHERE {these};\n\
             -- 2. Everything else in these objects, written anew in the table's own form and partitions. Athena writes\n\
             --    at most 100 partitions at a time: for more than four days add AND dt BETWEEN .. AND .. in both\n\
             --    places and repeat.\n\
             UNLOAD (\n\
             SELECT {COLUMNS}, dt, hour FROM {table}\n\
             WHERE \"$path\" IN (SELECT \"$path\" FROM {table} WHERE {these})\n\
             AND NOT coalesce({these}, false)\n\
             ) TO 's3://BUCKET/rewritten/'\n\
             WITH (format = 'JSON', compression = 'GZIP', partitioned_by = ARRAY['dt', 'hour']);\n\
             -- 3. aws s3 rm each object of step 1 (and, in a versioned bucket, its older versions), then\n\
             --    aws s3 mv --recursive s3://BUCKET/rewritten/ s3://BUCKET/readings/\n\
             -- 4. Must be 0:\n\
             SELECT count(*) FROM {table} WHERE {these};\n"
        )
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_are_those_of_the_table_over_the_bucket() {
        let (_, block) = crate::cloud::TEMPLATE.split_once("# >>> columns").unwrap();
        let (block, _) = block.split_once("# <<< columns").unwrap();
        let block = block.split_whitespace().collect::<Vec<_>>().join(" ");
        let columns: Vec<&str> =
            block.split("{Name: ").skip(1).map(|rest| rest.split(',').next().unwrap()).collect();
        assert_eq!(COLUMNS.split(", ").collect::<Vec<_>>(), columns);
    }

    #[test]
    fn names_are_quoted_and_only_this_gateways_rows_are_meant() {
        let names = ["O'Neil".to_owned(), "p-abc".to_owned()];
        let rows = Rows { table: "fogbeat.readings", gateway: "gym-12", names: &names };
        let condition = "gateway = 'gym-12' AND device IN ('O''Neil', 'p-abc')";
        assert!(rows.iceberg().starts_with(&format!("DELETE FROM fogbeat.readings WHERE {condition};\n")));
        assert_eq!(rows.objects().matches(condition).count(), 4);
    }
}
